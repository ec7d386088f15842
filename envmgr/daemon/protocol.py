"""One connection: who is at its other end, what is held for him, and how long he may take.

`Limits` says how long a client may take for the head of a request from its first byte (or from connecting), for its
body, for reading on when it has fallen behind, and between two requests; and how long a head may be, and anything else
in a request that nobody gets to see. Who takes more is told so (408, 431) and cut off. One user may have so many
connections; more are answered 429. Of his large bodies, each of which is in memory as a whole, `MOST_LARGE` are read
and worked on at the same time; the others are not read on before their turn. So clients that are slow, half gone or
hostile cost a descriptor each for a while, and nobody else anything.

What cannot be parsed is answered 400 in the one shape of an error.

Written against uvicorn 0.54, whose protocol classes are not a promised interface: pyproject.toml pins it.
"""

from __future__ import annotations

import asyncio
import http
import weakref
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from envmgr.daemon import peers, responses
from envmgr.errors import Busy, Cancelled, EnvmgrError, TimedOut, UsageError

KEY = "connection"
"""Where a request's scope has its `Connection`: in ``scope["state"]``."""
MOST_LARGE = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may take of us; see the module."""

    header_s: float = 10.0
    body_s: float = 30.0
    write_s: float = 30.0
    idle_s: int = 60
    head_bytes: int = 64 << 10


LIMITS = Limits()


class Closable(Protocol):
    def close(self) -> None: ...


class Connection:
    """What the rest of the daemon knows of a connection; for the event loop's thread only."""

    __slots__ = ("_has_turn", "_held", "_is_lost", "_turns", "peer", "when_lost")

    def __init__(self, peer: peers.Peer | None, turns: asyncio.Semaphore | None = None) -> None:
        self.peer = peer
        """Who it is; ``None`` over TCP."""
        self.when_lost: set[Callable[[], object]] = set()
        """Called when it ends."""
        self._held: list[Closable] = []
        self._is_lost = False
        self._turns = turns or asyncio.Semaphore(MOST_LARGE)
        self._has_turn = False

    async def begin_large(self) -> None:
        """Wait until this user may bring one more large body; `Cancelled` when the connection ends before."""
        if self._has_turn:
            return
        turn = asyncio.ensure_future(self._turns.acquire())
        self.when_lost.add(turn.cancel)
        try:
            self._has_turn = await turn
        except asyncio.CancelledError:
            if not self._is_lost:
                raise
            raise Cancelled("the client went away before its request was whole") from None
        finally:
            self.when_lost.discard(turn.cancel)

    def end_large(self) -> None:
        """Say that nothing of the request's body is needed any more."""
        if self._has_turn:
            self._has_turn = False
            self._turns.release()

    @property
    def is_lost(self) -> bool:
        return self._is_lost

    @property
    def is_holding(self) -> bool:
        return bool(self._held)

    def hold(self, lease: Closable) -> None:
        """Close this when the connection ends or is used for another request."""
        if self._is_lost:
            lease.close()
        else:
            self._held.append(lease)

    def release(self) -> None:
        """Close what is held."""
        held, self._held = self._held, []
        for lease in held:
            lease.close()

    def lose(self) -> None:
        self._is_lost = True
        self.release()
        for callback in tuple(self.when_lost):
            callback()


class Door:
    """Counts the connections of all users; `most_per_user` is asked at each new one."""

    def __init__(self, most_per_user: Callable[[], int]) -> None:
        self._most_per_user = most_per_user
        self._count: Counter[Hashable] = Counter()
        self._turns: weakref.WeakValueDictionary[Hashable, asyncio.Semaphore] = weakref.WeakValueDictionary()

    def turns(self, user: Hashable) -> asyncio.Semaphore:
        """Return what this user's large bodies take turns by."""
        return self._turns.setdefault(user, asyncio.Semaphore(MOST_LARGE))

    def enter(self, user: Hashable) -> bool:
        """Count one more of this user's; tell whether he may have it."""
        if self._count[user] >= self._most_per_user():
            return False
        self._count[user] += 1
        return True

    def leave(self, user: Hashable) -> None:
        self._count[user] -= 1
        if self._count[user] <= 0:
            del self._count[user]

    @property
    def connections(self) -> int:
        return self._count.total() if hasattr(self._count, "total") else sum(self._count.values())


class PeerProtocol(HttpToolsProtocol):
    """See the module; the class of every connection of the daemon."""

    def __init__(self, config: Config, server_state: ServerState, door: Door, limits: Limits = LIMITS) -> None:
        super().__init__(config, server_state, {})
        self.timeout_keep_alive = limits.idle_s
        self._limits = limits
        self.connection = Connection(None)
        self._door = door
        self._user: Hashable = None
        self._has_entered = False
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._unseen_bytes = 0
        self._is_in_request = False

    # ------------------------------------------------------------------------------------------------- the connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        peer = peers.of_socket(transport.get_extra_info("socket"))
        if peer is not None:
            self._user = peer.uid
        else:
            self._user = self.client[0] if self.client else None
        self.connection = Connection(peer, self._door.turns(self._user))
        self.app_state = {KEY: self.connection}
        self._has_entered = self._door.enter(self._user)
        if not self._has_entered:
            self._refuse(
                429,
                Busy(
                    "this user has as many connections to the daemon as he may have",
                    hint="setting max_connections_per_user",
                    setting="max_connections_per_user",
                    retry_after_s=1,
                ),
            )
            return
        self._limit(self._limits.header_s)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self._no_limit()
        if self._write_timer is not None:
            self._write_timer.cancel()
        if self._has_entered:
            self._door.leave(self._user)
            self._has_entered = False
        self.connection.lose()

    def data_received(self, data: bytes) -> None:
        self._unseen_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        most = self._limits.head_bytes
        if self._unseen_bytes > most:
            self._refuse(431, UsageError(f"the head of a request has over {most} bytes", limit_bytes=most))
        elif self._timer is None and self.timeout_keep_alive_task is None and not self._is_answering:
            self._limit(self._limits.header_s)  # bytes that begin no request, such as empty lines

    # --------------------------------------------------------------------------------------------------- the requests

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.connection.release()
        self._is_in_request = True
        self._limit(self._limits.header_s)

    def on_headers_complete(self) -> None:
        self._unseen_bytes = 0
        super().on_headers_complete()
        self._limit(self._limits.body_s)

    def on_body(self, body: bytes) -> None:
        self._unseen_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unseen_bytes = 0
        self._is_in_request = False
        super().on_message_complete()
        self._no_limit()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, UsageError(msg, hint="the daemon speaks HTTP/1.1"))

    # ------------------------------------------------------------------------------------------------------ the limits

    @property
    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # None before the first request, whatever uvicorn declares
        return cycle is not None and not cycle.response_complete

    def _limit(self, seconds: float) -> None:
        self._no_limit()
        self._timer = self.loop.call_later(seconds, self._too_slow)

    def _no_limit(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if not self._is_in_request and not self._unseen_bytes:
            self.transport.close()  # connected and said nothing: nobody to tell
            return
        self._refuse(408, TimedOut("the request did not arrive in time", hint="send it in one go"))

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self._limits.write_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def finish(self) -> None:
        """End the connection, once what it is being answered is answered; not while a lease is held for it."""
        if not self._is_answering and not self.connection.is_holding:
            self.transport.close()

    def _refuse(self, status: int, error: EnvmgrError) -> None:
        """Answer in place of the application, unless an answer was begun, and end the connection."""
        self._no_limit()
        if self._is_answering:
            begun = self.cycle.response_started
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            if begun or self.pipeline:
                self.transport.abort()
                return
        self.transport.write(_raw(status, error))
        self.transport.close()


def _raw(status: int, error: EnvmgrError) -> bytes:
    response = responses.refusal(responses.Refusal(status, error), {"Connection": "close"})
    head = [f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}".encode()]
    head += [b"%s: %s" % pair for pair in response.raw_headers]
    return b"\r\n".join([*head, b"", bytes(response.body)])


def connection_of(scope: Any) -> Connection:
    """Return the connection that a request came on."""
    found: Connection = scope["state"][KEY]
    return found
