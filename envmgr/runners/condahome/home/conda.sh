# The shell function `conda`, for sh, dash, bash, ksh and zsh, also under `set -eu`; written by
# `envmgr condahome install`. Prints nothing.
export CONDA_EXE=@HOME@/bin/conda
case :${PATH-}: in
*:@HOME@/condabin:*) ;;
*)
    PATH=@HOME@/condabin${PATH:+:$PATH} # not behind export, where dash splits it at spaces
    export PATH
    ;;
esac

conda() {
    case ${1-} in
    activate | deactivate)
        _envmgr_text=$(@HOME@/bin/conda shell.posix "$@") || return
        eval "unset _envmgr_text
$_envmgr_text"
        ;;
    *) @HOME@/bin/conda "$@" ;;
    esac
}
