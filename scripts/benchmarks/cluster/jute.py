"""ZooKeeper's protocol, as much of it as agents speak: requests and replies, to bytes and back.

A frame is its length (four bytes, big-endian) and a body. The first frame of each side opens the session; from then on
a request is ``xid, code`` and the fields of its kind, and a reply ``xid, zxid, error`` and the fields of its kind.
Replies come in the order of the requests; what the server says by itself has an xid below zero.
Source: ``zookeeper.jute`` and ``ZooDefs.java`` of ZooKeeper 3.8.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "create", "create2", "delete", "exists", "getData", "setData", "getChildren", "getChildren2", "sync", "ping",
    "check", "multi", "auth", "setWatches", "close",
]  # fmt: skip

# p: path, d: data, a: access list, f: flags, w: watch, v: version
_FIELDS: dict[Kind, tuple[int, str]] = {
    "create": (1, "pdaf"),
    "delete": (2, "pv"),
    "exists": (3, "pw"),
    "getData": (4, "pw"),
    "setData": (5, "pdv"),
    "getChildren": (8, "pw"),
    "sync": (9, "p"),
    "ping": (11, ""),
    "getChildren2": (12, "pw"),
    "check": (13, "pv"),
    "multi": (14, ""),
    "create2": (15, "pdaf"),
    "auth": (100, ""),
    "setWatches": (101, ""),
    "close": (-11, ""),
}
_KINDS: dict[int, Kind] = {code: kind for kind, (code, _) in _FIELDS.items()}

EVENT, PING = -1, -2
OK, NO_NODE, BAD_VERSION, NODE_EXISTS, NOT_EMPTY = 0, -101, -103, -110, -111
PERSISTENT, EPHEMERAL, EPHEMERAL_SEQUENCE = 0, 1, 3
STAT_BYTES = 68

_INT = struct.Struct(">i")
_HEADER = struct.Struct(">ii")
REPLY = struct.Struct(">iqi")
_MULTI = struct.Struct(">i?i")
_OPENING = struct.Struct(">iqiqi16s?")
_OPENED = struct.Struct(">iiqi16s")
_STAT = struct.Struct(">qqqqiiiqiiq")
_OPEN_TO_ALL = struct.pack(">iii5si6s", 1, 31, 5, b"world", 6, b"anyone")
"""One entry of an access list: every right for everybody."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `parts` are those of a ``multi``."""

    kind: Kind
    path: str = ""
    data: bytes = b""
    is_watching: bool = False
    flags: int = PERSISTENT
    version: int = -1
    parts: tuple[Request, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a reply says: of a read its data, of a list the children, of a creation the path; the rest is the node's.

    `error` is 0 or one of ZooKeeper's codes; that of a ``multi`` is its first part's that failed.
    """

    error: int = OK
    data: bytes = b""
    children: tuple[str, ...] = ()
    path: str = ""
    version: int = -1
    czxid: int = 0
    child_count: int = 0


# ------------------------------------------------------------------------------------------------------------- sessions


def opening(session_ms: int) -> bytes:
    """Return the frame that opens a new session."""
    return _framed(_OPENING.pack(0, 0, session_ms, 0, 16, bytes(16), False))


def opened(body: bytes) -> tuple[int, int]:
    """Return the timeout in milliseconds that the server grants, and the session's id; 0: it refuses."""
    _, timeout_ms, session, _, _ = _OPENED.unpack_from(body)
    return timeout_ms, session


# ------------------------------------------------------------------------------------------------------------- requests


def encode(xid: int, request: Request) -> bytes:
    """Return the frame of a request."""
    return _framed(_HEADER.pack(xid, _FIELDS[request.kind][0]) + _body(request))


def decode(body: bytes) -> tuple[int, Request]:
    """Return the xid of a request that was read from somebody's connection, and the request."""
    xid, code = _HEADER.unpack_from(body)
    kind = _KINDS[code]
    if kind != "multi":
        return xid, _request(kind, _Cursor(body, _HEADER.size))
    cursor = _Cursor(body, _HEADER.size)
    parts: list[Request] = []
    while True:
        code, is_done, _ = _MULTI.unpack_from(body, cursor.skip(_MULTI.size))
        if is_done:
            return xid, Request("multi", parts=tuple(parts))
        parts.append(_request(_KINDS[code], cursor))


def _body(request: Request) -> bytes:
    if request.kind == "multi":
        parts = (_MULTI.pack(_FIELDS[part.kind][0], False, -1) + _body(part) for part in request.parts)
        return b"".join(parts) + _MULTI.pack(-1, True, -1)
    pieces = []
    for field in _FIELDS[request.kind][1]:
        if field == "p":
            pieces.append(_buffer(request.path.encode()))
        elif field == "d":
            pieces.append(_buffer(request.data))
        elif field == "a":
            pieces.append(_OPEN_TO_ALL)
        elif field == "f":
            pieces.append(_INT.pack(request.flags))
        elif field == "v":
            pieces.append(_INT.pack(request.version))
        else:
            pieces.append(b"\1" if request.is_watching else b"\0")
    return b"".join(pieces)


def _request(kind: Kind, cursor: _Cursor) -> Request:
    path, data, is_watching, flags, version = "", b"", False, PERSISTENT, -1
    for field in _FIELDS[kind][1]:
        if field == "p":
            path = cursor.buffer().decode()
        elif field == "d":
            data = cursor.buffer()
        elif field == "a":
            for _ in range(cursor.number()):
                cursor.number()
                cursor.buffer()
                cursor.buffer()
        elif field == "f":
            flags = cursor.number()
        elif field == "v":
            version = cursor.number()
        else:
            is_watching = cursor.block(1) != b"\0"
    return Request(kind, path, data, is_watching, flags, version)


# -------------------------------------------------------------------------------------------------------------- replies


def answer(kind: Kind, body: bytes) -> Answer:
    """Return what the reply to a request of this kind says."""
    _, _, error = REPLY.unpack_from(body)
    if error != OK:
        return Answer(error)
    cursor = _Cursor(body, REPLY.size)
    if kind == "multi":
        return Answer(_first_error(cursor))
    data, path = b"", ""
    children: tuple[str, ...] = ()
    if kind == "getData":
        data = cursor.buffer()
    elif kind in {"getChildren", "getChildren2"}:
        children = tuple(cursor.buffer().decode() for _ in range(cursor.number()))
    elif kind in {"create", "create2"}:
        path = cursor.buffer().decode()
    if kind in {"getChildren", "sync", "delete", "create", "ping", "auth", "setWatches", "close"}:
        return Answer(OK, data, children, path)
    czxid, _, _, _, version, _, _, _, _, child_count, _ = _STAT.unpack_from(body, cursor.skip(STAT_BYTES))
    return Answer(OK, data, children, path, version, czxid, child_count)


def event_path(body: bytes) -> str:
    """Return the path of the node that a watch tells of."""
    return _Cursor(body, REPLY.size + 8).buffer().decode()


def _first_error(cursor: _Cursor) -> int:
    """A failed ``multi`` has nothing but errors: 0 for parts before the one that failed."""
    first = OK
    while True:
        code, is_done, error = _MULTI.unpack_from(cursor.body, cursor.skip(_MULTI.size))
        if is_done or code != -1:
            return first
        cursor.number()
        first = first or error


class _Cursor:
    """Reads a body from front to back."""

    __slots__ = ("_at", "body")

    def __init__(self, body: bytes, at: int) -> None:
        self.body = body
        self._at = at

    def skip(self, size: int) -> int:
        """Go on by `size` bytes, and return where they begin."""
        at = self._at
        self._at += size
        return at

    def number(self) -> int:
        (value,) = _INT.unpack_from(self.body, self.skip(4))
        return int(value)

    def block(self, size: int) -> bytes:
        at = self.skip(size)
        return self.body[at : at + size]

    def buffer(self) -> bytes:
        return self.block(max(self.number(), 0))


def _framed(body: bytes) -> bytes:
    return _INT.pack(len(body)) + body


def _buffer(data: bytes) -> bytes:
    return _INT.pack(len(data)) + data


def frames(buffer: bytearray) -> list[bytes]:
    """Take the whole frames off the front of what was read, and return their bodies."""
    taken, at = [], 0
    while len(buffer) - at >= 4:
        (size,) = _INT.unpack_from(buffer, at)
        if len(buffer) - at - 4 < size:
            break
        taken.append(bytes(buffer[at + 4 : at + 4 + size]))
        at += 4 + size
    if at:
        del buffer[:at]
    return taken
