"""What starting a program inside an environment changes in the program's environment variables.

The difference is captured once, when the environment is built (`envmgr.backends.activation`), and written to the file
``activation`` in the build's directory; every way of starting something (library, launcher, ``run``, ``shell-hook``)
reads the same file. So nothing of the environment's activation scripts runs at start.

Layout of the file, ``envmgr-activation-1``: the bytes ``envmgr-activation-1\\n``, then any number of changes; a change
is three byte strings *op*, *key*, *value*, each ended by a NUL byte, which no environment variable can contain. The
changes are applied in their order. *op* is one of

=========== ==========================================================================================================
``set``     the variable gets exactly *value*
``unset``   the variable is removed; *value* is empty
``prepend`` the entries of *value* (separated by ``:``) stand first in the list that the variable is, in their order;
            where they stood elsewhere in it, they are taken away there
``append``  the same at the end
=========== ==========================================================================================================

``PATH`` that is missing counts as `os.defpath`, since that is where programs are found without it; any other list that
is missing or empty counts as having no entries.

What holds: applying the changes twice is the same as once; what an outer environment put on ``PATH`` stays, behind
this one's. What is not promised: that the outer environment's other variables are taken back (nothing is deactivated).

This module is on the hot path: ``os`` and the errors only.
"""

import os

from envmgr.errors import Corrupt, UsageError

FILE_NAME = "activation"
HEADER = b"envmgr-activation-1\n"
OPS = ("set", "unset", "prepend", "append")

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Change = tuple[str, str, str]
    """(op, key, value)"""

_IDENTIFIER_START = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_IDENTIFIER = _IDENTIFIER_START | frozenset("0123456789")


def dump(changes: "Iterable[Change]") -> bytes:
    """Return the file's bytes; `ValueError` where a change cannot be written."""
    parts = [HEADER]
    for op, key, value in changes:
        if op not in OPS or not key or "=" in key or "\0" in key or "\0" in value:
            raise ValueError(f"not a change of an environment variable: {op!r} {key!r}")
        parts.append(os.fsencode(f"{op}\0{key}\0{value}\0"))
    return b"".join(parts)


def parse(data: bytes, where: str = FILE_NAME) -> "tuple[Change, ...]":
    """Return the changes that the bytes of a file hold; `where` is for the message of `Corrupt`."""
    if not data.startswith(HEADER):
        raise Corrupt(f"{where} does not begin with {HEADER.decode().strip()!r}", path=where)
    body = data[len(HEADER) :]
    fields = os.fsdecode(body).split("\0")
    if fields.pop() or len(fields) % 3:
        raise Corrupt(f"{where} is cut off: its fields do not make whole changes", path=where)
    found = tuple(zip(fields[0::3], fields[1::3], fields[2::3], strict=True))
    for op, key, _ in found:
        if op not in OPS or not key or "=" in key:
            raise Corrupt(f"{where} holds a change that this version does not know: {op!r} {key!r}", path=where)
    return found


def load(path: "str | os.PathLike[str]") -> "tuple[Change, ...]":
    """Read a file of changes; `Corrupt` where it is not one, `OSError` where it cannot be read."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = b""
        while block := os.read(fd, 1 << 16):
            data += block
    finally:
        os.close(fd)
    return parse(data, os.fspath(path))


def of_build(build_dir: str, name: str) -> "tuple[Change, ...]":
    """Return the changes of a build of the environment `name`; `Corrupt`, with its repair, where they are not whole."""
    path = f"{build_dir}/{FILE_NAME}"
    hint = f"envmgr repair {name}"
    try:
        return load(path)
    except Corrupt as error:
        error.hint = hint
        raise
    except OSError as error:
        raise Corrupt(f"cannot read {path}: {error.strerror}", hint=hint, path=path) from error


def apply(changes: "Iterable[Change]", environ: "Mapping[str, str]") -> "dict[str, str]":
    """Return `environ` as it is inside the environment; the argument stays as it is."""
    result = dict(environ)
    for op, key, value in changes:
        if op == "set":
            result[key] = value
        elif op == "unset":
            result.pop(key, None)
        else:
            result[key] = _joined(op, value, result.get(key, os.defpath if key == "PATH" else ""))
    return result


def changes(changes: "Iterable[Change]", environ: "Mapping[str, str]") -> "dict[str, str | None]":
    """Return what differs between `environ` and `environ` inside the environment; ``None`` means: removed."""
    after = apply(changes, environ)
    differences: dict[str, str | None] = {key: None for key in environ if key not in after}
    differences.update((key, value) for key, value in after.items() if environ.get(key) != value)
    return differences


def _joined(op: str, value: str, old: str) -> str:
    # Written with the same steps as the shell text below: the two must agree on empty entries, too.
    rest = f":{old}:"
    for entry in value.split(":"):
        while f":{entry}:" in rest:
            rest = rest.replace(f":{entry}:", ":")
    rest = rest.removeprefix(":").removesuffix(":")
    if not rest:
        return value
    return f"{value}:{rest}" if op == "prepend" else f"{rest}:{value}"


def script(changes: "Iterable[Change]", shell: str = "posix") -> str:
    """Return shell text that does the changes in the shell that evaluates it; it prints nothing and starts nothing.

    It works in sh, dash, bash, ksh and zsh, also under ``set -eu``, and does what `apply` does. Variables whose names
    no shell can assign to (such as ``a-b``) are left out. Raises `UsageError` for another `shell`.
    """
    if shell != "posix":
        raise UsageError(f"there is no activation text for the shell {shell!r}", hint="known: posix (sh, bash, zsh)")
    lines: list[str] = []
    for op, key, value in changes:
        if key[0] not in _IDENTIFIER_START or not _IDENTIFIER.issuperset(key):
            continue
        if op == "set":
            lines += [f"{key}={quoted(value)}", f"export {key}"]
        elif op == "unset":
            lines.append(f"unset {key}")
        else:
            lines.extend(_list_lines(op, key, value))
    if any(line.startswith("_envmgr_") for line in lines):
        lines.append("unset _envmgr_rest _envmgr_entry")
    return "".join(f"{line}\n" for line in lines)


# Assignments are never split into words, arguments of `export` are (in dash, by IFS): hence each on its own line.
def _list_lines(op: str, key: str, value: str) -> "list[str]":
    missing = os.defpath if key == "PATH" else ""
    lines = [f"_envmgr_rest=:${{{key}-{missing}}}:"]
    for entry in value.split(":"):
        lines += [
            f"_envmgr_entry={quoted(f':{entry}:')}",
            'while case $_envmgr_rest in *"$_envmgr_entry"*) ;; *) false ;; esac; do',
            '_envmgr_rest=${_envmgr_rest%%"$_envmgr_entry"*}:${_envmgr_rest#*"$_envmgr_entry"}',
            "done",
        ]
    lines += ["_envmgr_rest=${_envmgr_rest#:}", "_envmgr_rest=${_envmgr_rest%:}"]
    text = quoted(value)
    if op == "prepend":
        lines.append(f"{key}={text}${{_envmgr_rest:+:}}$_envmgr_rest")
    else:
        lines.append(f"{key}=$_envmgr_rest${{_envmgr_rest:+:}}{text}")
    return [*lines, f"export {key}"]


def quoted(text: str) -> str:
    """Return one word of a POSIX shell that stands for `text`."""
    return "'" + text.replace("'", "'\\''") + "'"
