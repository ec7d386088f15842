"""The library: what a runner calls before it executes code.

`ensure` first looks (`envmgr.ready`: no daemon, no YAML, no third-party import); only where nothing is ready does it
load what can build: the store's daemon where one listens, else the store's owner builds by himself. An `Environment` is
leased from the first moment to `close`, and each child that inherits its descriptor keeps the lease for as long as it
lives.

Words for an environment: a ``Path`` is a file, a mapping is a spec, and a ``str`` is a spec's text when it has a
newline, a file when it has ``/`` or ends in ``.yml`` or ``.yaml``, and else a name or an alias — never a file that
happens to lie in the working directory.
"""

import os

from envmgr import activation, ready
from envmgr.errors import EnvironmentNotFound, InvalidSpec, UsageError
from envmgr.names import EnvName, is_alias

TYPE_CHECKING = False
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Any, TypeAlias

    from envmgr.events import Event
    from envmgr.model import Spec

    SpecLike: TypeAlias = "str | os.PathLike[str] | Mapping[str, object]"


class Environment:
    """A ready environment that this process uses; a context manager that gives its lease back.

    An environment that is never closed stays leased until the process ends, even when the object is gone: a job may
    still run in it. `built` tells whether the call that returned this object built it.
    """

    __slots__ = ("_lease", "built")

    def __init__(self, lease: ready.Lease, *, built: bool = False) -> None:
        self._lease = lease
        self.built = built

    def __enter__(self) -> "Environment":  # noqa: PYI034 - `Self` would be an import of typing
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Environment {self.name} at {self._lease.prefix}>"

    @property
    def name(self) -> EnvName:
        """The environment's name; the same on every host."""
        return self._lease.name

    @property
    def prefix(self) -> "Path":
        """The conda prefix at its real path: this build, whatever the name leads to later."""
        from pathlib import Path  # noqa: PLC0415 - importing envmgr does not pay for it

        return Path(self._lease.prefix)

    @property
    def path(self) -> "Path":
        """The stable path ``<root>/envs/<name>``, which leads to the newest build."""
        from pathlib import Path  # noqa: PLC0415

        return Path(self._lease.path)

    @property
    def python(self) -> "Path | None":
        """The environment's interpreter, or ``None`` if it has none."""
        executable = f"{self._lease.prefix}/bin/python"
        if not os.access(executable, os.X_OK):
            return None
        from pathlib import Path  # noqa: PLC0415

        return Path(executable)

    def fileno(self) -> int:
        """Return the lease's descriptor, for ``pass_fds``; `ValueError` after `close`."""
        return self._lease.fileno()

    def bequeath(self) -> None:
        """Let the program that this process becomes (``os.execve``) inherit the lease."""
        self._lease.bequeath()

    def close(self) -> None:
        """Give this process's share of the lease back; children that inherited it keep theirs."""
        self._lease.close()

    def environ(self, base: "Mapping[str, str] | None" = None) -> "dict[str, str]":
        """Return the environment variables for a program of this environment, on top of `base` (``os.environ``)."""
        return activation.apply(self._changes(), os.environ if base is None else base)

    def environ_changes(self, base: "Mapping[str, str] | None" = None) -> "dict[str, str | None]":
        """Return only the variables that differ from `base`; ``None`` stands for removed."""
        return activation.changes(self._changes(), os.environ if base is None else base)

    def activation(self) -> str:
        """Return text for ``eval`` in a POSIX shell that does what `environ` does; it prints nothing."""
        return activation.script(self._changes())

    def popen(self, command: "Sequence[str | os.PathLike[str]]", **options: "Any") -> "subprocess.Popen[Any]":
        """Start a program inside the environment, holding the lease; `options` are those of `subprocess.Popen`.

        ``env`` is taken as the base of the program's variables. A relative program is searched on the environment's
        own PATH.
        """
        import subprocess  # noqa: PLC0415

        return subprocess.Popen(*self._call(command), **self._options(options))

    def run(self, command: "Sequence[str | os.PathLike[str]]", **options: "Any") -> "subprocess.CompletedProcess[Any]":
        """Run a program to its end inside the environment; as `subprocess.run`, otherwise as `popen`."""
        import subprocess  # noqa: PLC0415

        return subprocess.run(*self._call(command), **self._options(options))  # noqa: PLW1510 - the caller's choice

    def _call(self, command: "Sequence[str | os.PathLike[str]]") -> "tuple[list[str | os.PathLike[str]]]":
        if isinstance(command, (str, bytes)) or not command:
            raise UsageError("a command is a sequence: the program, then its arguments")
        program = os.fspath(command[0])
        own = f"{self._lease.prefix}/bin/{program}"
        if "/" not in program and os.access(own, os.X_OK):
            program = own
        return ([program, *command[1:]],)

    def _options(self, options: "dict[str, Any]") -> "dict[str, Any]":
        base = options.pop("env", None)
        inherited = (*options.pop("pass_fds", ()), self.fileno())
        return {**options, "env": self.environ(base), "pass_fds": inherited}

    def _changes(self) -> "tuple[tuple[str, str, str], ...]":
        return activation.of_build(self._lease.build_dir, self._lease.name)


def ensure(
    spec: "SpecLike",
    *,
    create: bool = True,
    alias: "str | None" = None,
    timeout_s: "float | None" = None,
    retry: bool = False,
    on_progress: "Callable[[Event], None] | None" = None,
    root: "str | os.PathLike[str] | None" = None,
    is_cancelled: "Callable[[], bool] | None" = None,
) -> Environment:
    """Return the environment of `spec`, ready and leased; build it on this host if it is not there.

    With ``create=False`` nothing is built. `alias` is set to the environment; when it stands for another, `AliasTaken`
    before anything is built. `timeout_s` bounds waiting and building. `on_progress` gets an `envmgr.events.Event` now
    and then, from this thread.

    Blocks. Raises `InvalidSpec` (with ``problems``), `EnvironmentNotFound` for a name or alias that is not there, and
    every other `EnvmgrError`; where ``is_transient`` is true, the same call may succeed later.
    """
    store = ready.default_root() if root is None else os.path.abspath(os.fspath(root))
    if isinstance(spec, str) and not is_text(spec) and not is_file(spec):
        lease = ready.acquire(store, spec)
        if lease is None:
            raise _not_found(store, spec)
        return _with_alias(Environment(lease), alias, store)
    text, source = read(spec)
    key = None if text is None else ready.text_key(text)
    if key is not None and (seen := ready.seen_name(store, key)) is not None:
        lease = ready.acquire(store, seen)
        if lease is not None:
            return _with_alias(Environment(lease), alias, store)
    parsed = parse(spec, text, source)
    environment = _ensure_parsed(
        parsed, store, create=create, alias=alias, timeout_s=timeout_s, retry=retry, on_progress=on_progress,
        is_cancelled=is_cancelled,
    )  # fmt: skip
    # Of many that waited for one build, the first remembers for all.
    if key is not None and not parsed.has_includes and ready.seen_name(store, key) != parsed.name:
        _remember(store, key, parsed.name)
    return environment


def _not_found(store: str, word: str) -> EnvironmentNotFound:
    name = ready.resolve_alias(store, word)
    if name is None or name == word:
        message = f"there is no environment {word!r} in {store}"
    else:
        message = f"{word} stands for {name}, which is not in {store}"
    return EnvironmentNotFound(message, hint=f"create it from its spec; to name a file, write ./{word}")


def _ensure_parsed(
    spec: "Spec",
    store: str,
    *,
    create: bool,
    alias: "str | None",
    timeout_s: "float | None",
    retry: bool,
    on_progress: "Callable[[Event], None] | None",
    is_cancelled: "Callable[[], bool] | None",
) -> Environment:
    lease = ready.acquire(store, spec.name)
    if lease is not None:
        return _with_alias(Environment(lease), alias, store)
    if not create:
        raise EnvironmentNotFound(f"{spec.name} is not in {store}", hint="create=True builds it")
    # What can build costs a tenth of a second to import; nobody whose environment is ready pays for it.
    from envmgr import events, names, wiring  # noqa: PLC0415

    # With the alias, so that one that cannot be had is refused before the build and not after it.
    ensured = wiring.front(store).ensure(
        spec,
        alias=None if alias is None else names.alias(alias),
        timeout_s=timeout_s,
        retry=retry,
        report=on_progress or events.ignore,
        is_cancelled=is_cancelled or (lambda: False),
    )
    return Environment(ensured.lease, built=ensured.was_built)


def _with_alias(environment: Environment, alias: "str | None", store: str) -> Environment:
    if alias is None:
        return environment
    try:
        if is_alias(alias) and ready.resolve_alias(store, alias) == environment.name:
            return environment
        from envmgr import names, wiring  # noqa: PLC0415

        wiring.front(store).set_alias(names.alias(alias), environment.name)
    except BaseException:
        environment.close()
        raise
    return environment


def _remember(store: str, key: str, name: EnvName) -> None:
    """Keep the name of a document for the next caller, for the store's owner; its daemon does so for everybody else."""
    try:
        if os.stat(f"{store}/owner").st_uid != os.geteuid():
            return
    except OSError:
        return
    from pathlib import Path  # noqa: PLC0415

    from envmgr.store import records  # noqa: PLC0415
    from envmgr.store.layout import Layout  # noqa: PLC0415

    records.remember_text(Layout(Path(store)), key, name)


def name(spec: "SpecLike") -> EnvName:
    """Return the name of a spec (a file, a text or a mapping); pure: no store, no network.

    Raises `InvalidSpec`, and `UsageError` for a word that is no spec.
    """
    if isinstance(spec, str) and not is_text(spec) and not is_file(spec):
        raise UsageError(f"{spec!r} is a name or an alias, not a spec", hint=f"to name a file, write ./{spec}")
    text, source = read(spec)
    return parse(spec, text, source).name


def is_text(word: str) -> bool:
    """Tell whether a word is a spec's text."""
    return "\n" in word


def is_file(word: str) -> bool:
    """Tell whether a word names a file (it need not exist)."""
    return "/" in word or word.endswith((".yml", ".yaml"))


def read(spec: "SpecLike") -> "tuple[bytes | None, str]":
    """Return the bytes of a spec's document and what to call it in messages; ``None`` for a mapping."""
    if isinstance(spec, str) and is_text(spec):
        return spec.encode(), "<text>"
    if not isinstance(spec, (str, os.PathLike)):
        return None, "<mapping>"
    path = os.fspath(spec)
    try:
        return _contents(path), path
    except OSError as error:
        raise InvalidSpec(f"cannot read {path}: {error.strerror}") from error


def _contents(path: str) -> bytes:
    # A file object with one large buffer would take longer than all the rest of a call that finds what is ready.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        blocks: list[bytes] = []
        left = _LARGEST_DOCUMENT_BYTES
        while left > 0 and (block := os.read(fd, min(left, _BLOCK_BYTES))):
            blocks.append(block)
            left -= len(block)
        return b"".join(blocks)
    finally:
        os.close(fd)


_BLOCK_BYTES = 1 << 16
_LARGEST_DOCUMENT_BYTES = 64 << 20
"""More than any document that the parser accepts (a lockfile may be large); bounds what an odd file can cost."""


def parse(spec: "SpecLike", text: "bytes | None", source: str) -> "Spec":
    """Parse what `read` returned; included requirements files are read relative to the document."""
    from envmgr import spec as specs  # noqa: PLC0415 - YAML, only where the text was not seen before

    if text is None:
        if not hasattr(spec, "keys"):
            raise UsageError(f"a spec is a path, a text or a mapping, not {type(spec).__name__}")
        return specs.parse_mapping(spec)  # type: ignore[arg-type]  # checked above: importing typing costs
    return specs.parse(text, source=source, read_include=_include_reader(source))


def _include_reader(source: str) -> "Callable[[str], bytes] | None":
    if source.startswith("<"):
        return None
    base = os.path.dirname(os.path.abspath(source))

    def read_include(relative: str) -> bytes:
        with open(os.path.join(base, relative), "rb") as file:
            return file.read(_LARGEST_DOCUMENT_BYTES)

    return read_include
