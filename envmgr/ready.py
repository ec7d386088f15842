"""The hot path: from a name to a leased, whole environment, in microseconds.

A name that resolves is whole: ``<root>/envs/<name>`` is a symlink ``../builds/<build id>/envs/<name>``, made in one
step after the build was finished, checked and synced. ``<root>/envs/<alias>`` is a symlink to a name. To use a build,
a process takes a shared flock on ``<root>/builds/<build id>/lease`` and looks again: if the name still leads to the
same build, the build stays on disk until the last descriptor of that open file is closed, in whatever process.

What a lease does not promise: that the name keeps resolving to this build (it may be republished or removed), or that
another program that ignores flock leaves the files alone.

A remover takes the exclusive flock, non-blocking, for the few milliseconds between taking the name away and moving
the build; `acquire` waits that out, within `PATIENCE_S`.

No daemon, no coordinator, no YAML, no third-party import; ``os`` and ``fcntl`` only, because this runs before every
job. Readers need no right to write anything. Source: flock(2), open(2).
"""

import fcntl
import os
import time

from envmgr.errors import Corrupt, EnvironmentInUse, PermissionRefused
from envmgr.names import CANONICAL_VERSION, BuildId, EnvName, environment_name, is_alias, is_build_id, is_name

SERVICE_ROOT = "/var/lib/envmgr"
SERVICE_SOCKET_DIR = "/run/envmgr"
PATIENCE_S = 2.0
_PAUSE_S = 0.005
_BEQUEATHED_FD = 100
_ABSENT = -1
_HELD = -2


def default_root() -> str:
    """Return the store's root: ``ENVMGR_ROOT``, else the service's where it is installed, else the user's own."""
    root = os.environ.get("ENVMGR_ROOT")
    if root:
        return os.path.abspath(root)
    if os.path.isdir(SERVICE_SOCKET_DIR):
        return SERVICE_ROOT
    data_home = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(data_home, "envmgr")


class Lease:
    """A build in use by this process, and by each child that inherits the descriptor.

    Given back by `close` only; an explicit unlock would take the lease from children, too.
    """

    __slots__ = ("build_id", "fd", "name", "root")

    def __init__(self, root: str, name: EnvName, build_id: BuildId, fd: int) -> None:
        self.root = root
        self.name = name
        self.build_id = build_id
        self.fd = fd

    @property
    def build_dir(self) -> str:
        return f"{self.root}/builds/{self.build_id}"

    @property
    def prefix(self) -> str:
        """The conda prefix at its real path."""
        return f"{self.root}/builds/{self.build_id}/envs/{self.name}"

    @property
    def path(self) -> str:
        """The stable path, which later leads to a newer build of the same name."""
        return f"{self.root}/envs/{self.name}"

    def fileno(self) -> int:
        if self.fd < 0:
            raise ValueError("the lease was given back")
        return self.fd

    def bequeath(self) -> None:
        """Let the program that this process becomes (execve) inherit the lease.

        On a high descriptor: scripts use the low ones for themselves, and ``exec 3<file`` would silently drop it.
        """
        try:
            fcntl.fcntl(self.fileno(), fcntl.F_DUPFD, _BEQUEATHED_FD)
        except OSError:  # so few descriptors are allowed to this process
            os.set_inheritable(self.fileno(), True)

    def close(self) -> None:
        """Give the lease back; a second call does nothing."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def lease_path(root: str, build_id: str) -> str:
    """Return where the lease file of a build stands."""
    return f"{root}/builds/{build_id}/lease"


def resolve(root: str, word: str) -> "tuple[EnvName, BuildId] | None":
    """Return what a name or an alias leads to now, or ``None``; nothing is held.

    Raises `Corrupt` when something that is not ours stands in the name's place.
    """
    name = resolve_alias(root, word)
    if name is None:
        return None
    target = _readlink(root, name)
    if target is None:
        return None
    build_id = _build_of(target, name)
    if build_id is None:
        raise Corrupt(
            f"{root}/envs/{name} leads to {target!r}, which is not a build of it",
            hint="envmgr doctor shows and quarantines what does not belong there",
        )
    return name, build_id


def resolve_alias(root: str, word: str) -> "EnvName | None":
    """Return the name that `word` (a name or an alias) stands for, or ``None`` for an alias that is not set."""
    if is_name(word):
        return EnvName(word)
    if not is_alias(word):
        environment_name(word)
    target = _readlink(root, word)
    if target is None:
        return None
    if not is_name(target):
        raise Corrupt(f"alias {root}/envs/{word} leads to {target!r}, which is not an environment's name")
    return EnvName(target)


def acquire(root: str, word: str, patience_s: float = PATIENCE_S) -> "Lease | None":
    """Resolve a name or an alias and lease its build; ``None`` when nothing is published under it.

    Raises `EnvironmentInUse` when somebody holds the build's lease exclusively for longer than `patience_s`, and
    `Corrupt` when for as long the name leads to a build that has no lease.
    """
    deadline = 0.0
    while True:
        found = resolve(root, word)
        if found is None:
            return None
        name, build_id = found
        fd = _lock_shared(lease_path(root, build_id))
        if fd >= 0:
            # A build's id may be used again once nothing of it is on disk. So a reader that was stopped around its lock
            # can hold the lease of a deleted build while the name leads to a new one of the same id: the file must be
            # the one that stands there after the name was found to lead to it.
            try:
                if resolve(root, word) == found and _is_at(fd, lease_path(root, build_id)):
                    return Lease(root, name, build_id, fd)
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
        now = time.monotonic()
        if not deadline:
            deadline = now + patience_s
        elif now > deadline:
            if fd == _ABSENT:
                raise Corrupt(
                    f"{root}/envs/{name} leads to a build without a lease ({lease_path(root, build_id)} is missing)",
                    hint="somebody deleted it by hand; envmgr repair makes a new build",
                )
            raise EnvironmentInUse(
                f"the lease of {name} ({lease_path(root, build_id)}) is held exclusively for over {patience_s:g} s",
                hint="it is being removed, or a process locked it by mistake: envmgr doctor names who",
            )
        time.sleep(_PAUSE_S)


def text_key(text: bytes) -> str:
    """Return the key under which the name of a document is remembered; it covers the canonical text's version."""
    import hashlib  # noqa: PLC0415 - only callers that bring a document pay for it

    return hashlib.sha256(b"envmgr-spec-%d\0" % CANONICAL_VERSION + text).hexdigest()


def seen_name(root: str, key: str) -> "EnvName | None":
    """Return the name of a document that was seen before, or ``None``."""
    try:
        target = os.readlink(f"{root}/by-text/{key}")
    except OSError:
        return None
    return EnvName(target) if is_name(target) else None


def _lock_shared(path: str) -> int:
    """Open and share-lock; `_ABSENT` when there is no such file, `_HELD` when somebody has it exclusively."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return _ABSENT
    except PermissionError as error:
        raise _not_readable(path) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return _HELD
    except BaseException:
        os.close(fd)
        raise
    return fd


def _is_at(fd: int, path: str) -> bool:
    """Tell whether an open file is the one that stands at `path`."""
    try:
        there = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    here = os.fstat(fd)
    return (here.st_ino, here.st_dev) == (there.st_ino, there.st_dev)


def _not_readable(path: str) -> PermissionRefused:
    return PermissionRefused(
        f"may not read {path} of the store: permission denied",
        hint="the store's owner must let others search its directories, or choose another store with ENVMGR_ROOT",
    )


def _readlink(root: str, word: str) -> "str | None":
    path = f"{root}/envs/{word}"
    try:
        return os.readlink(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise _not_readable(path) from error
    except OSError as error:
        if error.errno != 22:  # EINVAL: there, but no symbolic link
            raise
        raise Corrupt(
            f"{path} is not a symbolic link of envmgr",
            hint="another program (conda env create -n?) wrote there; envmgr doctor quarantines it",
        ) from error


def _build_of(target: str, name: str) -> "BuildId | None":
    head, _, rest = target.partition("../builds/")
    build_id, _, tail = rest.partition("/")
    if head or tail != f"envs/{name}" or not is_build_id(build_id):
        return None
    return BuildId(build_id)
