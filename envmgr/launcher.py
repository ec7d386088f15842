"""envmgr-python: stands where a ``python`` is expected, and becomes the environment's interpreter.

::

    envmgr-python [--envmgr-env=NAME|ALIAS] [--envmgr-spec=FILE] [--envmgr-root=DIR] [arguments of python…]

The environment comes from the leading options, or else from ``ENVMGR_ENV`` (a name or alias) or ``ENVMGR_SPEC`` (a
file). It is ensured, leased and activated; then this process executes its interpreter with the remaining arguments, so
that pid, descriptors, limits and exit status are the caller's own business as with any ``python``. The lease is an
inherited descriptor: it ends with the interpreter. ``PYTHONNOUSERSITE=1`` unless the caller has set it, and
``PYTHONHOME`` is dropped. Nothing is ever written to standard output, which belongs to the program.

SIGINT, SIGTERM and SIGHUP while something is built take it down and then end the process (130, 143, 129); before the
interpreter starts, they are again what they were.

Started bare (``-I -S``) by ``scripts/envmgr-python``; where something has to be built, site-packages are added then.
"""

import os
import sys

from envmgr.client import ensure, is_file, is_text
from envmgr.errors import EnvironmentNotFound, EnvmgrError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import NoReturn

    from envmgr.client import Environment
    from envmgr.events import Event

_OPTIONS = ("env", "spec", "root")
_NOT_FOUND = 127
_NOT_EXECUTABLE = 126


def main() -> "NoReturn":
    """Become the environment's interpreter; on failure say why on standard error and exit with the error's code."""
    try:
        options, arguments = split(sys.argv[1:])
        environment = _ensure(options, os.environ)
        become(environment, arguments)
    except EnvmgrError as error:
        sys.stderr.write(f"envmgr-python: {error}\n")
        sys.exit(error.exit_code)
    except OSError as error:
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        sys.stderr.write(f"envmgr-python: {where}{error.strerror or error}\n")
        sys.exit(EnvmgrError.exit_code)
    except KeyboardInterrupt as error:
        sys.exit(128 + getattr(error, "number", 2))  # a signal that came while something was built, or else SIGINT


def split(arguments: "list[str]") -> "tuple[dict[str, str], list[str]]":
    """Return our own leading options, and python's arguments."""
    options: dict[str, str] = {}
    rest = list(arguments)
    while rest and rest[0].startswith("--envmgr-"):
        key, equals, value = rest.pop(0).removeprefix("--envmgr-").partition("=")
        if key not in _OPTIONS:
            raise UsageError(f"unknown option --envmgr-{key}", hint=f"known: {', '.join(_OPTIONS)}")
        if not equals:
            if not rest:
                raise UsageError(f"--envmgr-{key} wants a value")
            value = rest.pop(0)
        options[key] = value
    return options, rest


def _ensure(options: "Mapping[str, str]", environ: "Mapping[str, str]") -> "Environment":
    if not {"env", "spec"} & options.keys():
        options = {**options, "env": environ.get("ENVMGR_ENV", ""), "spec": environ.get("ENVMGR_SPEC", "")}
    word, file = options.get("env"), options.get("spec")
    root = options.get("root")
    if word and not file:
        return _found(_no_path(word), root)
    if file and not word:
        path = os.path.abspath(file)
        try:
            return ensure(path, root=root, create=False)
        except (EnvironmentNotFound, ImportError):  # not there, or not seen before and there is no YAML under -S
            _add_site_packages()
        return _made(path, root)
    raise UsageError(
        "both an environment and a spec are given" if word and file else "no environment is given",
        hint="ENVMGR_ENV=NAME|ALIAS, ENVMGR_SPEC=FILE, or the first argument --envmgr-env=… or --envmgr-spec=…",
    )


def _found(word: str, root: "str | None") -> "Environment":
    try:
        return ensure(word, root=root)
    except EnvironmentNotFound as error:
        error.hint = "envmgr list shows what is there; ENVMGR_SPEC=FILE or --envmgr-spec=FILE makes what is not"
        raise


def _made(path: str, root: "str | None") -> "Environment":
    """Build what is not there; a signal that ends this process takes what it builds down first."""
    from envmgr.interruption import signals_raise  # noqa: PLC0415 - the ready path does without

    with signals_raise():
        return ensure(path, root=root, on_progress=_tell if sys.stderr.isatty() else None)


def _no_path(word: str) -> str:
    if is_text(word) or is_file(word):
        raise UsageError(f"{word!r} is no name or alias", hint="a spec's file goes into ENVMGR_SPEC or --envmgr-spec")
    return word


def _add_site_packages() -> None:
    """Do what ``-S`` left out: building needs the third-party packages."""
    import site  # noqa: PLC0415 - the ready path does without

    site.main()


def _tell(event: "Event") -> None:
    if event.kind == "begin":
        sys.stderr.write(f"envmgr-python: {event}\n")


def become(environment: "Environment", arguments: "list[str]") -> "NoReturn":
    """Replace this process by the environment's interpreter, which then holds the lease.

    One that cannot be executed ends the process as in a shell: 127 where a file is missing, else 126.
    """
    python = environment.python
    if python is None:
        raise UsageError(f"{environment.name} has no interpreter", hint="add python to its spec, or use envmgr run")
    environment.bequeath()
    variables = environment.environ()
    variables.pop("PYTHONHOME", None)
    variables.setdefault("PYTHONNOUSERSITE", "1")
    try:
        os.execve(python, [str(python), *arguments], variables)  # noqa: S606 - that is the purpose
    except OSError as error:
        # ENOENT, too, where the file is there, but what it names as its loader is not.
        is_missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
        sys.stderr.write(f"envmgr-python: cannot execute {python}: {error.strerror}\n")
        sys.exit(_NOT_FOUND if is_missing else _NOT_EXECUTABLE)
