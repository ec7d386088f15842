# Sourced by the other scripts: the checkout, its interpreters, and virtual environments that are made once.
# shellcheck shell=bash

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
supported_pythons="3.10 3.11 3.12 3.13"

say() { printf '%s\n' "$*" >&2; }

# An interpreter of this minor version that really starts: of PATH (a pyenv shim may not), or of pyenv itself.
find_python() {
    local candidate
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/"python$1"; do
        if "$candidate" -c 'import venv, ensurepip' >/dev/null 2>&1; then
            "$candidate" -c 'import sys; print(sys.executable)'
            return 0
        fi
    done
    return 1
}

# The running minor version first where it is supported, else the newest supported one.
default_python() {
    local version
    if python3 -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
        python3 -c 'import sys; print(sys.executable)'
        return
    fi
    for version in 3.13 3.12 3.11 3.10; do
        find_python "$version" && return
    done
    say "envmgr needs Python 3.10 to 3.13 with venv; none was found on PATH"
    return 1
}

# make_venv DIRECTORY PYTHON [uv pip install arguments...]: make or complete it, byte-code compiled; nothing to do when
# it was made from the same project files before.
make_venv() {
    local directory=$1 python=$2 stamp
    shift 2
    stamp=$({ "$python" -VV; echo "$*"; cat "$checkout/pyproject.toml" "$checkout"/scripts/*requirements.txt \
        "$checkout/scripts/demo/requirements.txt"; case "$*" in *-e*) ;; *) find "$checkout/envmgr" \
        "$checkout/scripts/envmgr-python" -type f -not -name '*.pyc' -print0 | sort -z | xargs -0 cat ;; esac; } |
        sha256sum)
    if [ -x "$directory/bin/python" ] && [ "$(cat "$directory/.made-from" 2>/dev/null)" = "$stamp" ]; then
        return 0
    fi
    say "making $directory from $python"
    [ -x "$directory/bin/python" ] || "$python" -m venv "$directory"
    "$directory/bin/python" -m pip install --quiet --disable-pip-version-check 'uv>=0.13,<0.14'
    # pip reads its own configuration (mirrors), which uv does not: it is the second way.
    (cd "$checkout" && "$directory/bin/uv" pip install --quiet --python "$directory/bin/python" --compile-bytecode \
        --reinstall-package envmgr "$@") ||
        (cd "$checkout" && "$directory/bin/python" -m pip install --quiet --disable-pip-version-check "$@")
    printf '%s\n' "$stamp" >"$directory/.made-from"
}

# choose_channel DIRECTORY: write a settings.toml there, unless there is one, with the demo channel where conda-forge
# cannot be reached. Needs envmgr on PATH.
choose_channel() {
    local channel
    [ ! -e "$1/settings.toml" ] || return 0
    ! ENVMGR_ROOT=$1 envmgr doctor --only channel >/dev/null 2>&1 || return 0
    say "conda-forge cannot be reached from here: making a small demo channel instead"
    channel=$("$checkout/scripts/demo_channel" "${1%/*}/channel" | tail -n 1)
    printf '# written by a script, because conda-forge could not be reached\ndefault_channels = ["%s"]\n' \
        "$channel" >"$1/settings.toml"
}
