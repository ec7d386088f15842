"""``conda`` of a conda home: what is asked most is answered here, in a few milliseconds and without site-packages.

Started bare (``-I -S``) by ``<home>/bin/conda``; whatever has to be made adds site-packages first. Standard output has
what conda prints there: with ``--json`` one JSON document, for text to evaluate that text, and for what takes time
lines of progress, since MLSQL and Ray show their users standard output live, while MLSQL does not read standard error
until the program has ended (64 KiB there would stop both for ever). Errors are a few lines on standard error; exit
status 1, 2 for a call that makes no sense, 130, 143 or 129 for a signal.
"""

import os
import sys

from envmgr import ready
from envmgr.errors import Corrupt, EnvmgrError, UsageError
from envmgr.names import is_alias, is_name
from envmgr.runners.condahome.words import TARGET, NotAnsweredError, Words, read
from envmgr.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

CONDA_VERSION = "25.1.1"
"""The conda whose command lines these are; what ``--version`` says, since callers compare it."""
_COMPUTED = "mlflow-"
"""How names begin that MLflow and MLSQL compute from the text of a file."""
_LARGEST_ERROR_CHARS = 16_000
_READER_S = 0.5
_LINES_S = 0.05  # a reader has taken the lines out of the pipe, and is about to pass them on
_HELP = f"""\
conda, as envmgr {__version__} answers it: environments are those of one store, shared by all who ask for the same.

usage: conda env list [--json]           what is ready (also: conda info --envs)
       conda env create -n N -f FILE     have the environment of a file ready under a name of your own, or wait for it
       conda env create -p P -f FILE     the same, as a link at the path P
       conda create -n N PACKAGE...      the same, of packages (-c CHANNEL, --override-channels)
       conda env remove -n N             drop the name; the environment stays for whoever uses it
       conda activate N, deactivate      in a shell that has sourced etc/profile.d/conda.sh or bin/activate
       conda run -n N COMMAND...         run a command in an environment
       conda list -n N [--json|--export] what an environment has
       conda pack -n N -o FILE           an archive of it
       conda info [--json], conda --version

Other commands are refused, or handed to the site's own conda: envmgr's setting pass_conda_commands.
"""


class Home:
    """A conda home and the store that it answers from, as absolute paths."""

    __slots__ = ("path", "root")

    def __init__(self, path: str, root: str) -> None:
        self.path = path
        self.root = root


def main(path: str, root: str, *arguments: str) -> "NoReturn":
    """Answer one call of conda, and end the process."""
    words = list(arguments)
    try:
        status = _answer(Home(path, root), words)
        sys.stdout.flush()
    except EnvmgrError as error:
        status = _fail(error, is_json="--json" in words)
        if "create" in words[:2]:
            _wait_for_reader()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains while it ends
        status = 1
    except OSError as error:
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        status = _fail(EnvmgrError(f"{where}{error.strerror or error}"), is_json="--json" in words)
    except KeyboardInterrupt as error:
        status = 128 + getattr(error, "number", 2)
    sys.exit(status)


def _answer(home: Home, arguments: "list[str]") -> int:
    words = list(arguments)
    while words and words[0] in ("-q", "--quiet", "-v", "-vv", "-vvv", "--verbose", "--no-plugins"):
        del words[0]
    if not words or words[0] in ("-h", "--help", "help"):
        return say(_HELP)
    if words[0] in ("-V", "--version"):
        return say(f"conda {CONDA_VERSION}\n")
    length = 2 if words[0] == "env" and len(words) > 1 else 1
    command, rest = " ".join(words[:length]), words[length:]
    is_text = command.startswith("shell.")
    if command != "run" and not is_text and {"-h", "--help"} & {command.rpartition(" ")[2], *rest}:
        return say(_HELP)
    try:
        if is_text:
            return _shell(home, command, rest)
        if command not in _COMMANDS:
            raise NotAnsweredError("")
        return _COMMANDS[command](home, rest)
    except NotAnsweredError as error:
        add_site_packages()
        from envmgr.runners.condahome import others  # noqa: PLC0415 - needs site-packages

        return others.hand_over(home, words, error.message)


def say(text: str) -> int:
    """Write to standard output, at once; return the exit status of success."""
    sys.stdout.write(text)
    sys.stdout.flush()
    return 0


def say_json(document: object) -> int:
    """Write one JSON document to standard output, laid out as conda does."""
    return say(f"{_json(document, chr(10))}\n")


def _json(value: object, margin: str) -> str:
    """Return JSON text; importing ``json`` would take a third of the time that a listing takes."""
    inner = f"{margin}  "
    if isinstance(value, dict) and value:
        body = f",{inner}".join(f"{_json(key, inner)}: {_json(it, inner)}" for key, it in value.items())
        return f"{{{inner}{body}{margin}}}"
    if isinstance(value, list) and value:
        return f"[{inner}{f',{inner}'.join(_json(it, inner) for it in value)}{margin}]"
    if isinstance(value, str) and value.isascii() and value.isprintable():
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    import json  # noqa: PLC0415

    return json.dumps(value)


def _fail(error: EnvmgrError, *, is_json: bool) -> int:
    status = error.exit_code if isinstance(error, UsageError) else 1
    text = str(error)[:_LARGEST_ERROR_CHARS]
    if is_json:
        say_json({"error": text, "exception_name": type(error).__name__, "exception_type": repr(type(error))})
    else:
        sys.stderr.write(f"conda: {text}\n")
        sys.stderr.flush()
    return status


def _wait_for_reader() -> None:
    """Give whoever reads the pipes time to take the error out of them, half a second at most.

    Ray stops reading what conda says as soon as conda has ended, and shows its users only what it has read till then.
    """
    import fcntl  # noqa: PLC0415 - only a failure pays for it
    import stat  # noqa: PLC0415
    import termios  # noqa: PLC0415
    import time  # noqa: PLC0415

    until = time.monotonic() + _READER_S
    for fd in (1, 2):
        try:
            while stat.S_ISFIFO(os.fstat(fd).st_mode) and time.monotonic() < until:
                if not any(fcntl.ioctl(fd, termios.FIONREAD, bytes(4))):
                    time.sleep(_LINES_S)
                    break
                time.sleep(_LINES_S / 5)
        except OSError:
            continue


def check_not_asked_by_envmgr() -> None:
    """Raise `EnvmgrError` where envmgr itself has started a conda which turned out to be this one."""
    if os.environ.get("ENVMGR_CONDA_PASSED_ON"):  # PASSED_ON of envmgr.backends.conda.executable, which costs
        raise EnvmgrError(
            "envmgr's own conda home was asked by envmgr, as if it were the site's conda",
            hint="envmgr's setting conda_executable names the site's",
        )


def add_site_packages() -> None:
    """Do what ``-S`` left out: the parser of specs, settings and the daemon's client need third-party packages."""
    if "site" not in sys.modules:
        import site  # noqa: PLC0415 - what is ready does without

        site.main()


# ------------------------------------------------------------------------------------------------------ what there is


def environments(root: str) -> "list[tuple[str, str]]":
    """Return (alias or name, stable path) of all that is ready, sorted; what is not whole or not ours is left out.

    So is what another user had set under a name that is computed from a text (`_COMPUTED`): whoever finds it listed
    takes it for what he would have made. Not finding it, he has it created, which is at once where it is the same.
    """
    try:
        entries = sorted(os.listdir(f"{root}/envs"))
    except (FileNotFoundError, NotADirectoryError):
        return []
    found = []
    for entry in entries:
        try:
            resolved = ready.resolve(root, entry) if is_alias(entry) or is_name(entry) else None
            if resolved is None or (entry.startswith(_COMPUTED) and _is_anothers(root, resolved[0], entry)):
                continue
            found.append((entry, f"{root}/envs/{entry}"))
        except Corrupt:
            continue
    return found


def _is_anothers(root: str, name: str, alias: str) -> bool:
    """Tell whether the daemon set an alias for another user, root excepted (`envmgr.store.records`)."""
    try:
        with open(f"{root}/names/{name}/alias-{alias}.json", encoding="utf-8") as file:
            uid = file.read().partition('"uid":')[2].partition(",")[0]
    except FileNotFoundError:
        return False  # the store's owner set it himself
    except OSError:
        return True
    return uid.strip() not in {"0", str(os.geteuid())}


def word_of(root: str, given: str) -> "str | None":
    """Return the name or alias that ``-n`` or a path (of the store, or a link into it) stands for.

    ``None`` for a path that leads elsewhere. Nothing need be there.
    """
    if "/" not in given:
        return given
    path = os.path.abspath(given)
    for _ in range(8):
        head, tail = os.path.split(path)
        directory = os.path.realpath(head)
        if directory == os.path.realpath(f"{root}/envs") and (is_name(tail) or is_alias(tail)):
            return tail
        build = os.path.dirname(directory)
        if (
            is_name(tail)
            and directory == f"{build}/envs"
            and os.path.dirname(build) == os.path.realpath(f"{root}/builds")
        ):
            return tail
        try:
            path = os.path.abspath(os.path.join(head, os.readlink(path)))
        except OSError:
            return None
    return None


def lease_of(home: Home, given: str) -> ready.Lease:
    """Return the environment of a name, an alias or a path, leased; `EnvmgrError` where there is none."""
    word = word_of(home.root, given)
    lease = None
    if word is not None and (is_name(word) or is_alias(word)):
        lease = ready.acquire(home.root, word)
    if lease is None:
        raise EnvmgrError(f"there is no environment {given!r} in {home.root}; conda env list shows what is ready")
    return lease


def _env_list(home: Home, arguments: "list[str]") -> int:
    words = read(arguments, {})
    _check_alone(words)
    return _list(home, is_json=words.is_json)


def _check_alone(words: Words) -> None:
    if words.rest:
        raise NotAnsweredError(words.rest[0])


def _list(home: Home, *, is_json: bool) -> int:
    found = environments(home.root)
    if is_json:
        return say_json({"envs": [path for _, path in found]})
    active = os.environ.get("CONDA_PREFIX")
    active = None if not active else os.path.realpath(active)
    lines = "".join(
        f"{word:<24} {'*' if os.path.realpath(path) == active else ' '} {path}\n" for word, path in found
    )  # fmt: skip
    return say(f"# conda environments:\n#\n{lines}\n")


def _info(home: Home, arguments: "list[str]") -> int:
    words = read(arguments, {"-e": "envs", "--envs": "envs", "-a": "", "--all": "", "--base": "base"})
    _check_alone(words)
    if words.has("base"):
        return say(f"{home.path}\n")
    if words.has("envs") and not words.is_json:
        return _list(home, is_json=False)
    prefix = os.environ.get("CONDA_PREFIX") or None
    facts: dict[str, object] = {
        "active_prefix": prefix,
        "active_prefix_name": None if prefix is None else os.path.basename(prefix),
        "conda_version": CONDA_VERSION,
        "conda_prefix": home.path,
        "root_prefix": home.path,
        "root_writable": False,
        "default_prefix": prefix or home.path,
        "envs_dirs": [f"{home.root}/envs"],
        "envs": [path for _, path in environments(home.root)],
        "pkgs_dirs": [f"{home.root}/pkgs"],
        "envmgr_version": __version__,
    }
    if words.is_json:
        return say_json(facts)
    lines = [
        ("conda version", CONDA_VERSION), ("base environment", f"{home.path}  (read only)"),
        ("envs directories", f"{home.root}/envs"), ("envmgr version", __version__),
    ]  # fmt: skip
    if prefix is not None:  # BigDL takes what stands here for a name; without it, it looks at its interpreter's path
        lines = [("active environment", os.path.basename(prefix)), ("active env location", prefix), *lines]
    return say("\n" + "".join(f"{what:>23} : {value}\n" for what, value in lines) + "\n")


# --------------------------------------------------------------------------------------------------------- to go there


def _shell(home: Home, command: str, arguments: "list[str]") -> int:
    from envmgr.runners.condahome import shells  # noqa: PLC0415 - listing does without

    return say(shells.text(home, command, arguments))


def _run(home: Home, arguments: "list[str]") -> int:
    options = {
        **TARGET, "--no-capture-output": "", "--live-stream": "", "-s": "", "--cwd": "cwd=",
    }  # fmt: skip
    words = read(arguments, options, is_command=True)
    from envmgr import activation  # noqa: PLC0415 - listing does without

    if not words.rest:
        raise UsageError("conda run -n N COMMAND: a command is missing")
    lease = lease_of(home, target(words))
    environ = activation.apply(activation.of_build(lease.build_dir, lease.name), os.environ)
    lease.bequeath()
    if words.has("cwd"):
        os.chdir(str(words.one("cwd")))
    sys.stdout.flush()
    try:
        os.execvpe(words.rest[0], words.rest, environ)  # noqa: S606 - no shell is the point
    except (FileNotFoundError, NotADirectoryError):
        sys.stderr.write(f"conda: {words.rest[0]}: command not found in {lease.name}\n")
        return 127


def target(words: Words) -> str:
    """Return what ``-n`` or ``-p`` names, or else the active environment's prefix."""
    given = words.one("name") or words.one("prefix")
    if given is None:
        given = os.environ.get("CONDA_PREFIX")
    if not given:
        raise UsageError("no environment is named and none is active", hint="-n NAME")
    return given


def _later(module: str, name: str) -> "Callable[[Home, list[str]], int]":
    def call(home: Home, arguments: "list[str]") -> int:
        import importlib  # noqa: PLC0415 - listing does without

        function: Callable[[Home, list[str]], int]
        function = getattr(importlib.import_module(f"envmgr.runners.condahome.{module}"), name)
        return function(home, arguments)

    return call


_COMMANDS: "dict[str, Callable[[Home, list[str]], int]]" = {
    "env list": _env_list,
    "info": _info,
    "run": _run,
    "env create": _later("making", "env_create"),
    "create": _later("making", "create"),
    "env remove": _later("making", "env_remove"),
    "remove": _later("making", "remove"),
    "list": _later("looking", "list_packages"),
    "pack": _later("looking", "pack"),
}
