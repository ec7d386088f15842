"""The connection behind a `Session`: its threads, its state, and who is told of it.

Two threads of ours: one proves that the session lives while somebody relies on that, and begins anew when kazoo gave
up; the other calls watches and listeners, one at a time, so that these may ask ZooKeeper and cannot hold kazoo up.
"""

from __future__ import annotations

import abc
import contextlib
import functools
import logging
import os
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from envmgr.coordination.zookeeper import client as client_
from envmgr.coordination.zookeeper.client import Client
from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.lease import Lease
from envmgr.errors import CoordinatorUnavailable, EnvmgrError

State = Literal["connected", "suspended", "lost"]
Watch = Callable[[], None]
_FAREWELL_S = 1.0
_SILENT_S = 10.0
"""How long the first connection may take before the log says that there is none."""
_log = logging.getLogger("envmgr.zookeeper")


class BootClock(Protocol):
    """A clock that runs on while the process is stopped or the machine is suspended."""

    def monotonic(self) -> float:
        """Return seconds."""


class _BootClock:
    def monotonic(self) -> float:
        return client_.boot_time()


BOOT_CLOCK: BootClock = _BootClock()


class Instant(abc.ABC):
    """A watch that only sets a flag: it is called on kazoo's own thread, at once, and may never wait for anything."""

    @abc.abstractmethod
    def __call__(self) -> None:
        """Set the flag."""


@dataclass(frozen=True, slots=True)
class Watcher:
    """What kazoo calls. Equal for equal watches, so that one set again and again on a quiet node is kept once."""

    deliver: Callable[[Watch], None]
    watch: Watch

    def __call__(self, _event: object) -> None:
        if isinstance(self.watch, Instant):
            self.watch()
        else:
            self.deliver(self.watch)


class Link(abc.ABC):
    """See the module."""

    def __init__(self, endpoint: Endpoint, clock: BootClock = BOOT_CLOCK) -> None:
        self.endpoint = endpoint
        self._clock = clock
        self._lease = Lease()
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._client: Client | None = None
        self._is_connected = False
        self._away_since = clock.monotonic()
        self._is_closing = self._is_closed = False
        self._relied_on = 0
        self._keeper: threading.Thread | None = None
        self._teller: threading.Thread | None = None
        self._told: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._listeners: dict[object, Callable[[State], None]] = {}
        self._closers: list[tuple[Callable[[], None], Callable[[], None]]] = []

    # ------------------------------------------------------------------------------------------------------ its life

    def start(self, timeout_s: float = 10.0) -> None:
        """Begin to connect, and wait that long for it; when nobody answers, it goes on by itself."""
        self.check_usable()
        with self._changed:
            if self._keeper is None:
                self._teller = threading.Thread(target=self._tell, name="envmgr-zookeeper-tell", daemon=True)
                self._keeper = threading.Thread(target=self._keep, name="envmgr-zookeeper-keep", daemon=True)
                self._teller.start()
                self._client = self._begin()
                self._keeper.start()
        self.wait_connected(timeout_s)

    def close(self) -> None:
        """End the session at once where a server can be told, and every thread; bounded, and it may be repeated.

        Not to be called from a watch or a listener.
        """
        if os.getpid() != self._pid:
            return
        with self._changed:
            if self._is_closing:
                return
            self._is_closing = True
        for before, _ in self._closers:
            before()
        with self._changed:
            self._is_closed = True
            self._is_connected = False
            self._changed.notify_all()
        for _, after in self._closers:
            after()
        if self._keeper is not None and self._teller is not None:
            self._keeper.join(_FAREWELL_S)
            if self._client is not None and self._keeper.is_alive():
                self._client.drop()  # it waits for an answer of a server that stands still
            self._keeper.join()
            if self._client is not None:
                self._client.end()
            self._told.put(None)
            self._teller.join()
        self._lease.expired()

    @abc.abstractmethod
    def sync(self, path: str = "/", *, timeout_s: float = 5.0) -> None:
        """Prove that the session lives."""

    @property
    def is_connected(self) -> bool:
        """Whether a server answers, as far as is known."""
        return self._is_connected and os.getpid() == self._pid

    @property
    def away_s(self) -> float:
        """How long there has been no connection, 0 while there is one; before the first since this was made."""
        return 0.0 if self._is_connected else self._clock.monotonic() - self._away_since

    @property
    def is_closed(self) -> bool:
        return self._is_closed or os.getpid() != self._pid

    @property
    def epoch(self) -> int:
        """How many ZooKeeper sessions there were; what an older one held (ephemeral nodes) is gone."""
        return self._lease.epoch

    @property
    def session_id(self) -> int:
        """ZooKeeper's own number of the session: the `Node.ephemeral_owner` of what it made; 0: none."""
        return self._lease.session_id

    @property
    def timeout_s(self) -> float:
        """How long the servers keep the session after they last heard of it; 0 before the first connection."""
        return self._lease.timeout_s

    @property
    def problem(self) -> str | None:
        """Why the last connection could not be made."""
        client = self._client
        return None if client is None else client.problem

    def certainly_alive_until(self) -> float:
        """Return the time of the boot clock before which the servers cannot have given the session up."""
        return self._lease.until()

    def is_certain(self, epoch: int) -> bool:
        """Tell whether the session of that epoch certainly lives now; false after a fork, and once it ends."""
        return os.getpid() == self._pid and not self._is_closed and self._clock.monotonic() < self._lease.until(epoch)

    @contextlib.contextmanager
    def relying(self) -> Iterator[None]:
        """Have `certainly_alive_until` kept up for the length of a block."""
        self.check_usable()
        with self._changed:
            self._relied_on += 1
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._relied_on -= 1

    def wait_connected(self, timeout_s: float) -> bool:
        """Wait for a connection; tell whether there is one."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_connected or self._is_closed, max(0.0, timeout_s))
            return self._is_connected

    def hear(self, listener: Callable[[State], None]) -> Callable[[], None]:
        """Call `listener` with each change of state, on the thread of the watches; return what ends that."""
        key = object()
        self._listeners[key] = listener

        def end() -> None:
            self._listeners.pop(key, None)

        return end

    def at_close(self, before: Callable[[], None], after: Callable[[], None]) -> None:
        """Have `before` called when this is closed, while it can still be asked, and `after` once it cannot."""
        self._closers.append((before, after))

    def check_usable(self) -> None:
        """Raise `CoordinatorUnavailable` in a child made by fork, and after `close`."""
        if os.getpid() != self._pid:
            raise CoordinatorUnavailable(
                f"this connection to ZooKeeper belongs to process {self._pid}; a child made by fork cannot use it"
            )
        if self._is_closed:
            raise CoordinatorUnavailable("the connection to ZooKeeper is closed")

    def unavailable(self, message: str, *, is_unknown: bool = False) -> CoordinatorUnavailable:
        """Return the error for a call without an answer; `is_unknown`: what it was to do may have been done."""
        reason = self.problem
        return CoordinatorUnavailable(
            message + (f" ({reason})" if reason else ""),
            hint=f"setting zookeeper: {', '.join(self.endpoint.servers)}",
            is_unknown=is_unknown,
        )

    # ------------------------------------------------------------------------------------------------ threads of ours

    def _begin(self) -> Client:
        client = Client(self.endpoint, self._lease, self._taken, self._over)
        client.add_listener(self._kazoo_state)
        client.start_async()
        return client

    def _taken(self, is_new: bool) -> None:
        """Note that a server took us in; on kazoo's thread, before anything else can be asked."""
        with self._changed:
            self._is_connected = not self._is_closed
            self._changed.notify_all()
        _log.info("connected to ZooKeeper%s", ", in a new session" if is_new else "")
        self._announce("connected")

    def _over(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _kazoo_state(self, state: str) -> None:
        """Note what kazoo says; on kazoo's thread. That it is connected is told by `_taken`, which knows more."""
        if state == "CONNECTED":
            return
        is_lost = state == "LOST"
        if is_lost:
            self._lease.expired()
        with self._changed:
            if self._is_connected:
                self._away_since = self._clock.monotonic()
            self._is_connected = False
            self._changed.notify_all()
        if not self._is_closed:
            _log.warning("the session with ZooKeeper is lost" if is_lost else "the connection to ZooKeeper is lost")
        self._announce("lost" if is_lost else "suspended")

    def _announce(self, state: State) -> None:
        for listener in tuple(self._listeners.values()):
            self._told.put(functools.partial(listener, state))

    def _tell(self) -> None:
        """Call watches and listeners, one at a time."""
        while (call := self._told.get()) is not None:
            try:
                call()
            except Exception:  # noqa: BLE001 - it is somebody else's code, and the next one must be told, too
                _log.exception("what was told of a change in ZooKeeper failed")

    def _keep(self) -> None:
        """Prove that the session lives while somebody relies on it, and begin anew when kazoo gave up."""
        next_beat = 0.0
        with self._changed:
            has_heard = self._changed.wait_for(lambda: self._is_connected or self._is_ending(), _SILENT_S)
        if not has_heard:  # of later ones it is told that they are lost
            error = self.unavailable("ZooKeeper has not answered yet")
            _log.warning("%s; %s", error.message, error.hint)
        while True:
            with self._changed:
                if self._is_relied_on():
                    wait_s = max(0.0, next_beat - self._clock.monotonic())
                    self._changed.wait_for(self._is_ending, wait_s)
                else:
                    self._changed.wait_for(lambda: self._is_ending() or self._is_relied_on())
                if self._is_closed:
                    return
                is_due = self._is_relied_on() and self._clock.monotonic() >= next_beat
                client = self._client
            if client is not None and client.is_over:
                self._renew(client)
            elif client is not None and is_due:
                next_beat = self._clock.monotonic() + self._lease.beat_s
                self._beat(client)

    def _is_ending(self) -> bool:
        return self._is_closed or (self._client is not None and self._client.is_over)

    def _is_relied_on(self) -> bool:
        return self._relied_on > 0 and self._is_connected

    def _beat(self, client: Client) -> None:
        try:
            self.sync(timeout_s=self._lease.timeout_s / 3)
        except CoordinatorUnavailable:
            # A server that is cut off from its leader, or stopped, holds the connection but does not answer; another
            # one may, in time.
            if client is self._client and not self._is_closed:
                client.drop()
        except EnvmgrError as error:
            _log.error("the session with ZooKeeper cannot be proved: %s", error)

    def _renew(self, client: Client) -> None:
        _log.error("the client of ZooKeeper ended (%s); beginning anew", client.problem or "no reason known")
        client.end()
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed, 1.0)  # whoever is refused asks once a second
            if not self._is_closed:
                self._client = self._begin()
