"""Where the daemon is reached: its sockets, and the lock that makes it the only one of its store.

A socket stands under its name only when its mode and group are set and it listens; before that nobody can reach it. A
personal store's is 0600 in a directory that only its user can search; a service's is 0660 for the group ``use_group``,
0666 without that setting. The socket of a daemon that was killed is replaced by the next one's, and one that stops
removes its own. Sockets that the service manager passes are used as they are.

The lock is a flock on ``<root>/locks/daemon.lock``, which names its holder and ends with him; of a store that several
hosts mount, each host has one of its own.

Source: unix(7), flock(2).
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import ssl
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from envmgr import ready
from envmgr.daemon import peers
from envmgr.errors import EnvironmentInUse, PermissionRefused, UsageError
from envmgr.store import locks, opening
from envmgr.wire import address

if TYPE_CHECKING:
    from envmgr.settings import Settings
    from envmgr.store.layout import Layout

BACKLOG = 4096
_OWN = "envmgr-"
"""What the names of directories begin with that the daemon makes for its socket alone."""
_LONGEST_PATH_BYTES = 107 - len(".tmp")


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket; `words` is where, for people, `tls` is there where connections are encrypted."""

    socket: socket.socket
    words: str
    tls: ssl.SSLContext | None = None


@contextlib.contextmanager
def only_daemon(layout: Layout, on: str | None = None) -> Iterator[None]:
    """Be the only daemon of a store for the length of the block; `EnvironmentInUse` names who is.

    With `on`, the only one on this machine.
    """
    path = layout.locks / ("daemon.lock" if on is None else f"daemon-{on}.lock")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with locks.exclusive(fd) as is_ours:
        if not is_ours:
            holder = path.read_text(encoding="ascii", errors="replace").strip() or "unknown"
            raise EnvironmentInUse(
                f"another daemon serves the store {layout.root}: pid {holder}",
                hint="one store has one daemon; envmgr status tells of it",
            )
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        yield


@contextlib.contextmanager
def listeners(layout: Layout, settings: Settings, inherited: Sequence[socket.socket]) -> Iterator[list[Listener]]:
    """Listen for the length of the block, on what was inherited and else on sockets of our own."""
    with contextlib.ExitStack() as stack:
        found = [_inherited(sock, settings) for sock in inherited]
        for listener in found:
            stack.callback(listener.socket.close)
        local = [listener for listener in found if listener.socket.family == socket.AF_UNIX]
        if not local:
            local = [stack.enter_context(_local(layout, settings))]
            found.insert(0, local[0])
        # A link that a killed daemon left leads to the same place; whoever listens there now takes it away in the end.
        is_linked = os.path.islink(layout.root / address.LINK_NAME)
        if is_linked or address.socket_of(str(layout.root)) != local[0].words:
            stack.enter_context(_link(layout, local[0].words))
        if settings.listen is not None and not any(one.socket.family != socket.AF_UNIX for one in found):
            found.append(_tcp(settings.listen, settings))
            stack.callback(found[-1].socket.close)
        yield found


# ----------------------------------------------------------------------------------------------------------- this host


@contextlib.contextmanager
def _local(layout: Layout, settings: Settings) -> Iterator[Listener]:
    _, store_mode = opening.owner(layout)
    is_service = store_mode == "service"
    path = _place(layout, is_service=is_service)
    group = settings.use_group if is_service else None
    gid = None if group is None else peers.group_id(group, "use_group")
    bits = 0o600 if not is_service else 0o666 if gid is None else 0o660
    with contextlib.closing(_bound(path, bits, gid)) as sock:
        status = os.lstat(path)
        try:
            yield Listener(sock, str(path))
        finally:
            with contextlib.suppress(OSError):
                now = os.lstat(path)
                if (now.st_dev, now.st_ino) == (status.st_dev, status.st_ino):
                    path.unlink()
                    if path.parent.name.startswith(_OWN) and not os.environ.get(address.VARIABLE):
                        path.parent.rmdir()


def _place(layout: Layout, *, is_service: bool) -> Path:
    """Return where the socket is to stand, its directory made."""
    chosen = os.environ.get(address.VARIABLE)
    if chosen:
        return Path(chosen).absolute()
    if str(layout.root) == ready.SERVICE_ROOT:
        return _directory(Path(ready.SERVICE_SOCKET_DIR), 0o755) / address.SOCKET_NAME
    name = f"{opening.store_id(layout)[:8]}.sock"
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and not is_service and len(os.fsencode(f"{runtime}/envmgr/{name}")) <= _LONGEST_PATH_BYTES:
        with contextlib.suppress(OSError, PermissionRefused):
            return _directory(Path(runtime, "envmgr"), 0o700) / name
    shared = Path(tempfile.gettempdir())
    bits = 0o755 if is_service else 0o700
    try:
        return _directory(shared / f"{_OWN}{os.geteuid()}-{name[:8]}", bits) / name
    except PermissionRefused:  # somebody else has made a directory of that name
        directory = Path(tempfile.mkdtemp(prefix=_OWN, dir=shared))
        directory.chmod(bits)
        return directory / name


def _directory(path: Path, bits: int) -> Path:
    """Make a directory that nobody else can change, or use ours."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=bits)
        path.chmod(bits)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionRefused(
            f"{path} is not a directory that only this process's user can change",
            hint=f"{address.VARIABLE} chooses another place for the socket",
        )
    return path


def _bound(path: Path, bits: int, gid: int | None) -> socket.socket:
    """Return a listening socket that stands at `path` with this mode and group."""
    if len(os.fsencode(path)) > _LONGEST_PATH_BYTES:
        raise UsageError(
            f"the path of the socket is too long for the kernel: {path}",
            hint=f"{address.VARIABLE} chooses another place for the socket",
        )
    if _answers(path):
        raise EnvironmentInUse(f"somebody listens on {path} already", hint=f"{address.VARIABLE} chooses another place")
    temporary = path.with_name(f"{path.name}.tmp")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()  # of a daemon that was killed between two steps
        before = os.umask(0o177)
        try:
            sock.bind(str(temporary))
        finally:
            os.umask(before)
        if gid is not None:
            os.chown(temporary, -1, gid)
        temporary.chmod(bits)
        sock.listen(BACKLOG)
        temporary.replace(path)
    except OSError as error:
        sock.close()
        raise PermissionRefused(
            f"cannot make the socket {path}: {error.strerror}",
            hint="the daemon's user must be in use_group, and may write the socket's directory"
            if gid is not None
            else f"the daemon's user must be able to write its directory; {address.VARIABLE} chooses another place",
        ) from error
    return sock


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except BlockingIOError:  # its queue is full
            return True
        except OSError:
            return False
        return True


@contextlib.contextmanager
def _link(layout: Layout, target: str) -> Iterator[None]:
    """Let ``<root>/socket`` lead to the socket for the length of the block."""
    link = layout.root / address.LINK_NAME
    temporary = link.with_name(f".tmp-{address.LINK_NAME}")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    temporary.symlink_to(target)
    temporary.replace(link)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if os.readlink(link) == target:
                link.unlink()


# -------------------------------------------------------------------------------------------------------- other hosts


def _inherited(sock: socket.socket, settings: Settings) -> Listener:
    if sock.family == socket.AF_UNIX:
        return Listener(sock, str(sock.getsockname()))
    return _checked(sock, settings)


def _tcp(where: str, settings: Settings) -> Listener:
    host, _, port = where.rpartition(":")
    host = host.strip("[]")
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(place)
        sock.listen(BACKLOG)
    except OSError as error:
        raise UsageError(f"cannot listen on {where}: {error}", hint="setting listen", setting="listen") from error
    return _checked(sock, settings)


def _checked(sock: socket.socket, settings: Settings) -> Listener:
    """Refuse what would let anybody in, or tokens be read on their way."""
    host, port = sock.getsockname()[:2]
    tls = _tls(settings)
    if settings.tokens_file is None:
        raise UsageError("over TCP the daemon needs tokens", hint="setting tokens_file", setting="tokens_file")
    if tls is None and not ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        raise UsageError(
            f"without TLS the daemon answers on loopback addresses only, not on {host}",
            hint="settings tls_cert_file and tls_key_file",
            setting="tls_cert_file",
        )
    shown = f"[{host}]" if ":" in host else host
    return Listener(sock, f"{'http' if tls is None else 'https'}://{shown}:{port}", tls)


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if settings.tls_cert_file is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"the certificate {settings.tls_cert_file} and its key cannot be used: {error}",
            hint="settings tls_cert_file and tls_key_file",
            setting="tls_cert_file",
        ) from error
    return context
