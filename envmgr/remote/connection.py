"""One connection to the daemon: as much of HTTP/1.1 over a unix socket as `envmgr.wire.socket` needs.

Every wait is cut into slices of at most `POLL_S`, and between two of them the caller's own limit may end it. A daemon
that says nothing for longer than `Patience.answer_s` is asked over a second connection whether it lives: one that does
is waited for (a removal may wait for a build), one that does not is `DaemonUnavailable`. So nothing waits for ever.

The answer's head and body are read here and not by http.client, whose import takes 15 ms that ``envmgr list`` does not
owe, and which cannot be called off in the middle of a read.

Source: RFC 9112, unix(7).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from envmgr import codec, errors, ready
from envmgr.errors import DaemonUnavailable, EnvironmentInUse, InvalidSpec, PermissionRefused
from envmgr.model import Problem, Usage

if TYPE_CHECKING:
    from envmgr.ports import Deadline

T = TypeVar("T")

POLL_S = 0.2
_CONNECT_PAUSE_S = 0.05
_BLOCK_BYTES = 1 << 16
_LARGEST_HEAD_BYTES = 1 << 16
_LONGEST_ADDRESS_BYTES = 107
_LONGEST_SIZE_DIGITS = 15
_LIVE = "/v1/health/live"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a daemon may take: to take a connection, to begin an answer, between two events; to come back."""

    connect_s: float = 5.0
    answer_s: float = 15.0
    silence_s: float = 15.0
    reconnect_s: float = 10.0


PATIENCE = Patience()


class Absent(DaemonUnavailable):
    """Nobody listens at the socket."""


def unavailable(path: str, what: str, *, is_running: bool = False) -> DaemonUnavailable:
    """Return the error for a daemon that does not do its part; one that runs has to be ended before it is started."""
    return DaemonUnavailable(f"the daemon at {path} {what}", hint=_remedy(path, is_running=is_running))


def _remedy(path: str, *, is_running: bool) -> str:
    if path.startswith(f"{ready.SERVICE_SOCKET_DIR}/"):
        verb, how = ("restart", "starts it anew") if is_running else ("start", "starts it")
        how = f"systemctl status envmgr.service says how it is, systemctl {verb} envmgr.service {how}"
    elif is_running:
        how = "envmgr daemon names its process; after that one has been ended it starts another"
    else:
        how = "envmgr daemon starts it"
    return f"{how}; nothing that was made is lost, and the same call can be made again"


class Connection:
    """A connection for one request; a context manager that closes it.

    With ``is_patient=False`` a daemon that has not answered in time is not asked whether it lives.

    Raises `Absent` when nobody listens, `PermissionRefused` when this user may not connect, and `DaemonUnavailable`
    for whatever else is wrong with the daemon; whatever `limit` raises ends every wait.
    """

    def __init__(
        self, path: str, *, limit: Deadline | None = None, patience: Patience = PATIENCE, is_patient: bool = True
    ) -> None:
        self._path = path
        self._limit = limit
        self._patience = patience
        self._is_patient = is_patient
        self._buffer = bytearray()
        self._poll = select.poll()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.setblocking(False)
            self._connect()
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Connection:  # noqa: PYI034 - `typing.Self` came with Python 3.11
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, and with it whatever the daemon holds for it.

        Also when a process that was forked off this one meanwhile has a copy of the socket.
        """
        with contextlib.suppress(OSError):  # it has ended already
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    # ------------------------------------------------------------------------------------------------------- requests

    def ask(self, method: str, target: str, request: object = None) -> dict[str, Any]:
        """Send a request and return the ``data`` of its answer; an ``error`` is raised as what it is."""
        self._send(method, target, request, {})
        status, headers = self._head(can_ask=True)
        return self._data(status, b"".join(self._body(headers, can_ask=True)))

    def stream(self, target: str, headers: Mapping[str, str]) -> Iterator[bytes]:
        """Send a request for a stream and return its blocks, each as it comes; a silence ends it."""
        self._send("GET", target, None, headers)
        status, answered = self._head(can_ask=True)
        if status != 200:
            self._data(status, b"".join(self._body(answered, can_ask=True)))
        return self._body(answered, can_ask=False)

    def _send(self, method: str, target: str, request: object, headers: Mapping[str, str]) -> None:
        body = b"" if request is None else codec.dump(request).encode()
        lines = [f"{method} {target} HTTP/1.1", "Host: envmgr", "Accept: application/json, text/event-stream"]
        lines += [f"{key}: {value}" for key, value in headers.items()]
        if body:
            lines.append("Content-Type: application/json")
        if body or method != "GET":
            lines.append(f"Content-Length: {len(body)}")
        left = memoryview("\r\n".join([*lines, "", ""]).encode("ascii") + body)
        while left:
            self._wait(select.POLLOUT, can_ask=True)
            try:
                left = left[self._socket.send(left) :]
            except BlockingIOError:
                continue
            except OSError:
                return  # it may have answered already, to a request that it does not want to the end

    def _data(self, status: int, body: bytes) -> dict[str, Any]:
        try:
            document = json.loads(body)
            if isinstance(document, dict) and isinstance(document.get("data"), dict):
                return document["data"]  # type: ignore[no-any-return]  # checked in the line above
            found = document["error"]
            error = errors.from_json(found)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise unavailable(self._path, f"answered what is no answer of envmgr's (status {status})") from None
        raise with_records(error)

    # -------------------------------------------------------------------------------------------------------- reading

    def _head(self, *, can_ask: bool) -> tuple[int, dict[str, str]]:
        head = self._until(b"\r\n\r\n", can_ask=can_ask).decode("latin-1")
        first, *lines = head.split("\r\n")
        try:
            status = int(first.split(" ", 2)[1])
            pairs = (line.split(":", 1) for line in lines if line)
            return status, {key.strip().lower(): value.strip() for key, value in pairs}
        except (ValueError, IndexError):
            raise unavailable(self._path, "does not speak HTTP") from None

    def _body(self, headers: Mapping[str, str], *, can_ask: bool) -> Iterator[bytes]:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            while size := self._chunk_size(can_ask=can_ask):
                yield from self._exactly(size, can_ask=can_ask)
                self._until(b"\r\n", can_ask=can_ask)
            while self._until(b"\r\n", can_ask=can_ask):
                pass
            return
        length = headers.get("content-length", "0")
        if len(length) > _LONGEST_SIZE_DIGITS:
            raise unavailable(self._path, "does not speak HTTP")
        yield from self._exactly(int(length) if length.isdecimal() else 0, can_ask=can_ask)

    def _chunk_size(self, *, can_ask: bool) -> int:
        line = self._until(b"\r\n", can_ask=can_ask)
        digits = line.partition(b";")[0].strip()
        if not digits.isalnum() or len(digits) > _LONGEST_SIZE_DIGITS:  # int() knows signs, too
            raise unavailable(self._path, "does not speak HTTP")
        try:
            return int(digits, 16)
        except ValueError:
            raise unavailable(self._path, "does not speak HTTP") from None

    def _exactly(self, size: int, *, can_ask: bool) -> Iterator[bytes]:
        while size:
            if not self._buffer:
                self._fill(can_ask=can_ask)
            block = bytes(self._buffer[:size])
            del self._buffer[:size]
            size -= len(block)
            yield block

    def _until(self, end: bytes, *, can_ask: bool) -> bytes:
        while (at := self._buffer.find(end)) < 0:
            if len(self._buffer) > _LARGEST_HEAD_BYTES:
                raise unavailable(self._path, "does not speak HTTP")
            self._fill(can_ask=can_ask)
        found = bytes(self._buffer[:at])
        del self._buffer[: at + len(end)]
        return found

    def _fill(self, *, can_ask: bool) -> None:
        while True:
            self._wait(select.POLLIN, can_ask=can_ask)
            try:
                block = self._socket.recv(_BLOCK_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                raise unavailable(self._path, f"broke the connection off: {error.strerror}") from error
            if not block:
                raise unavailable(self._path, "broke the connection off")
            self._buffer += block
            return

    # -------------------------------------------------------------------------------------------------------- waiting

    def _wait(self, what: int, *, can_ask: bool) -> None:
        """Wait until the socket is ready; with `can_ask`, for as long as the daemon lives."""
        allowed_s = self._patience.answer_s if can_ask else self._patience.silence_s
        since = time.monotonic()
        self._poll.register(self._socket, what)
        while True:
            if self._poll.poll(self._slice_s() * 1000):
                return
            if time.monotonic() - since >= allowed_s:
                if not (can_ask and self._is_patient and self._lives()):
                    raise unavailable(
                        self._path, f"has not answered for {time.monotonic() - since:.0f} s", is_running=True
                    )
                since = time.monotonic()

    def _slice_s(self) -> float:
        if self._limit is None:
            return POLL_S
        self._limit.check()
        left = self._limit.remaining_s()
        return POLL_S if left is None else min(POLL_S, left + 0.001)

    def _lives(self) -> bool:
        patience = Patience(self._patience.connect_s, self._patience.connect_s, 0.0, 0.0)
        try:
            with Connection(self._path, limit=self._limit, patience=patience, is_patient=False) as other:
                other.ask("GET", _LIVE)
        except DaemonUnavailable:
            return False
        return True

    def _connect(self) -> None:
        address, directory = self._path, -1
        if len(os.fsencode(address)) > _LONGEST_ADDRESS_BYTES:
            directory = self._directory()
            address = f"/proc/self/fd/{directory}/{os.path.basename(self._path)}"
        until = time.monotonic() + self._patience.connect_s
        try:
            while not self._try_connect(address):
                if time.monotonic() >= until:
                    raise unavailable(
                        self._path, "takes no connection: too many wait for it, or it stands still", is_running=True
                    )
                time.sleep(min(_CONNECT_PAUSE_S, self._slice_s()))
        finally:
            if directory >= 0:
                os.close(directory)

    def _directory(self) -> int:
        try:
            return os.open(os.path.dirname(self._path), os.O_PATH | os.O_CLOEXEC)
        except OSError as error:
            raise self._refused(error) from error

    def _try_connect(self, address: str) -> bool:
        try:
            self._socket.connect(address)
        except BlockingIOError:  # the queue of those that want to connect is full
            return False
        except OSError as error:
            raise self._refused(error) from error
        return True

    def _refused(self, error: OSError) -> errors.EnvmgrError:
        if isinstance(error, PermissionError):
            return PermissionRefused(
                f"may not connect to the daemon at {self._path}: {error.strerror}",
                hint=f"{_members(self._path)} may: ask an administrator to be one, and log in again",
            )
        if isinstance(error, (FileNotFoundError, NotADirectoryError, ConnectionRefusedError)):
            found = unavailable(self._path, "is not running")
            return Absent(found.message, hint=found.hint)
        return unavailable(self._path, f"cannot be reached: {error.strerror}")


def _members(path: str) -> str:
    """Return in words who may connect to a socket that is not everybody's."""
    import grp  # noqa: PLC0415 - only here

    try:
        return f"members of the group {grp.getgrgid(os.stat(path).st_gid).gr_name}"
    except (OSError, KeyError):
        return "members of the socket's group"


def answers(path: str) -> bool:
    """Tell whether a daemon takes connections at `path`; raises what `Connection` raises, but for `Absent`."""
    try:
        Connection(path).close()
    except Absent:
        return False
    return True


def load(path: str, cls: type[T], document: object) -> T:
    """Return a record of the daemon at `path`; `DaemonUnavailable` when it is none that this envmgr understands."""
    try:
        return codec.load(cls, document)
    except ValueError as error:
        raise unavailable(path, f"answered what this envmgr does not understand: {error}") from error


def with_records(error: errors.EnvmgrError) -> errors.EnvmgrError:
    """Give an error that crossed the wire the records back that go with it: users, problems."""
    if isinstance(error, EnvironmentInUse):
        error.users = _records(Usage, error.fields.get("users"))
    if isinstance(error, InvalidSpec):
        error.problems = _records(Problem, error.fields.get("problems"))
    return error


def _records(cls: type[T], documents: object) -> tuple[T, ...]:
    try:
        return tuple(codec.load(cls, document) for document in documents) if isinstance(documents, list) else ()
    except ValueError:
        return ()
