"""kazoo's client with what it lacks: bounded connections, the servers' own session timeout, and word of every contact.

kazoo gives one server the length of a whole session to accept a connection (so one host without power costs the
session), trusts every authority that the system trusts beside ours, leaves sockets open that failed, keeps the timeout
that the servers want to itself, and never comes back to servers whose data was emptied or restored from a backup. All
this is mended here by subclasses; nothing of kazoo is patched. What is overridden is not promised to stay: the version
of kazoo is bounded for that reason.

Source: kazoo 2.11, ``protocol/connection.py``, ``handlers/utils.py``.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from kazoo.client import KazooClient
from kazoo.exceptions import ConnectionDropped, SessionExpiredError, WriterNotClosedException
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.protocol.connection import ConnectionHandler, PingInstance

if TYPE_CHECKING:
    from collections.abc import Callable

    from envmgr.coordination.zookeeper.endpoint import Endpoint
    from envmgr.coordination.zookeeper.lease import Lease

_PING = -2
_LONGEST_PAUSE_S = 2.0
_FAREWELL_S = 1.0
_log = logging.getLogger("envmgr.zookeeper")
_kazoo_log = logging.getLogger("envmgr.zookeeper.kazoo")
_kazoo_log.setLevel(logging.ERROR)  # it warns of every lost connection; we say it once ourselves


def boot_time() -> float:
    """Return seconds since the machine started; they also pass while the process or the machine is stopped."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class _Sockets(SequentialThreadingHandler):  # type: ignore[misc]  # kazoo has no types
    """kazoo's threads, with connections of ours."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__()
        self._endpoint = endpoint
        self._longest_s = endpoint.session_s / (3 * max(1, len(endpoint.servers)))
        self._socket: socket.socket | None = None
        self.problem: str | None = None

    def create_connection(
        self, address: tuple[str, int], timeout: float = 10.0, hostname: str | None = None, **_options: object
    ) -> socket.socket:
        """Connect to a server; the whole of it takes a part of the session's length, so that others can be tried."""
        made: socket.socket | None = None
        try:
            made = socket.create_connection(address, min(timeout, max(0.2, self._longest_s)))
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._endpoint.ca_file is not None:
                made = self._context().wrap_socket(made, server_hostname=hostname or address[0])
        except (OSError, ValueError) as error:
            self.problem = f"{address[0]}:{address[1]}: {error}"
            if made is not None:
                made.close()
            raise OSError(str(error)) from error
        self._socket = made
        return made

    def drop(self) -> None:
        """Break the present connection, so that kazoo looks for another server at once."""
        broken = self._socket
        if broken is not None:
            with contextlib.suppress(OSError):  # it may be closed already
                socket.socket.shutdown(broken, socket.SHUT_RDWR)

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # it checks the certificate and the host's name
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_verify_locations(self._endpoint.ca_file)
        if self._endpoint.cert_file is not None:
            context.load_cert_chain(self._endpoint.cert_file, self._endpoint.key_file)
        return context


class _Connection(ConnectionHandler):  # type: ignore[misc]  # kazoo has no types
    """kazoo's connection, which tells the lease of every contact."""

    def __init__(self, client: Client, retry: Any, logger: logging.Logger) -> None:
        super().__init__(client, retry, logger=logger)
        self._pings: deque[float] = deque()
        self._last_xid = 0
        self._failing_since: float | None = None
        self._seen_zxid = 0
        self.is_over = False

    def zk_loop(self) -> None:
        """Be kazoo's thread, and say when it ends."""
        try:
            super().zk_loop()
        except Exception as error:  # noqa: BLE001 - kazoo's own bugs; a new client follows
            _log.error("kazoo failed: %s", error)
        finally:
            self.is_over = True
            self.client.on_over()

    def _expand_client_hosts(self) -> Any:
        found = super()._expand_client_hosts()
        if not found:  # kazoo tells its log only
            hosts = sorted({host.strip() for host, _ in self.client.hosts})
            self.client.handler.problem = f"no address is known of {', '.join(hosts)}"
        return found

    def _connect(self, host: str, hostip: str, port: int) -> Any:
        self._pings.clear()
        # kazoo counts its requests from 1 again with each connection. A server tells by session and number which
        # request was committed, and what was asked for on the connection before, and is committed late, would be the
        # answer to a request on this one.
        self._xid = self._last_xid
        before = boot_time()
        if self._failing_since is not None and before - self._failing_since > 2 * self.client.lease.timeout_s:
            # A server refuses who has seen what it has not. One that only lags is behind for less than that; this may
            # be one that was emptied or restored, which would refuse us for ever.
            self._seen_zxid, self.client.last_zxid = max(self._seen_zxid, self.client.last_zxid), 0
        try:
            timeouts = super()._connect(host, hostip, port)
            self._check_seen(timeouts[1] / 1000)
        except SessionExpiredError:
            self._seen_zxid = 0
            raise
        except (ConnectionDropped, self.client.handler.timeout_exception) as error:
            if self._failing_since is None:
                self._failing_since = before
            if self._socket is not None:  # else the handler has said what is wrong
                self.client.handler.problem = f"{host}:{port}: no session was granted ({error})"
            raise
        self._failing_since = None
        # kazoo's read timeout is two thirds of what the server grants.
        self.client.taken(self.client._session_id, timeouts[0] * 1.5 / 1000, before)  # noqa: SLF001 - its subclass
        return timeouts

    def _check_seen(self, timeout_s: float) -> None:
        """End a session that was resumed by servers that know less than was seen: what it held may not be there."""
        if self._seen_zxid and (self._invoke(timeout_s, PingInstance, _PING) or 0) < self._seen_zxid:
            raise SessionExpiredError("the servers have gone back to an earlier time")
        self._seen_zxid = 0

    def _submit(self, request: Any, timeout: float, xid: int | None = None) -> None:
        if xid is not None and xid > 0:
            self._last_xid = xid
        super()._submit(request, timeout, xid)

    def _send_ping(self, connect_timeout: float) -> None:
        self._pings.append(boot_time())
        super()._send_ping(connect_timeout)

    def _read_response(self, header: Any, buffer: Any, offset: int) -> Any:
        pending = self.client._pending  # noqa: SLF001 - its subclass
        expected = pending[0][2] if pending else self._last_xid + 1
        if header.xid < expected:
            return None  # such a late answer; nobody waits for it any more
        if header.xid > expected:
            raise ConnectionDropped(f"answer {header.xid} where {expected} was expected")
        return super()._read_response(header, buffer, offset)

    def _read_header(self, timeout: float) -> Any:
        answer = super()._read_header(timeout)
        if answer[0].xid == _PING and self._pings:
            self.client.lease.touched(self.client.lease.epoch, self._pings.popleft())
        return answer


class Client(KazooClient):  # type: ignore[misc]  # kazoo has no types
    """A kazoo client.

    `on_taken` is called on its thread whenever a server took us into a session, `on_over` when it has given up.
    """

    def __init__(
        self, endpoint: Endpoint, lease: Lease, on_taken: Callable[[bool], None], on_over: Callable[[], None]
    ) -> None:
        handler = _Sockets(endpoint)
        super().__init__(
            hosts=",".join(endpoint.servers),
            timeout=endpoint.session_s,
            handler=handler,
            auth_data=[] if endpoint.auth is None else [("digest", ":".join(endpoint.auth))],
            connection_retry={"max_tries": -1, "delay": 0.05, "max_delay": _LONGEST_PAUSE_S},
            command_retry={"max_tries": 1},  # whoever calls knows better what may be asked twice
            use_ssl=endpoint.ca_file is not None,
            logger=_kazoo_log,
        )
        self.lease = lease
        self._on_taken = on_taken
        self.on_over = on_over
        self._connection = _Connection(self, self._conn_retry.copy(), _kazoo_log)

    @property
    def problem(self) -> str | None:
        """What was wrong with the last connection that could not be made."""
        found: str | None = self.handler.problem
        return found

    @property
    def is_over(self) -> bool:
        """Whether kazoo has given up for good (it does so when a server refuses who we are, and on its own bugs)."""
        over: bool = self._connection.is_over
        return over

    def drop(self) -> None:
        """Break the connection; kazoo makes another."""
        self.handler.drop()

    def taken(self, session_id: int, timeout_s: float, before: float) -> None:
        """Note that a server answered our request for a session; called on kazoo's thread."""
        self.handler.problem = None
        self._on_taken(self.lease.connected(session_id, timeout_s, before))

    def end(self) -> None:
        """End the session at once where a server can be told, and every thread and descriptor; bounded."""
        # kazoo waits for the server's answer for as long as the session is; breaking the connection ends that.
        stopping = threading.Thread(target=self._stop, name="envmgr-zookeeper-end", daemon=True)
        stopping.start()
        stopping.join(_FAREWELL_S)
        while stopping.is_alive():
            self.drop()
            stopping.join(0.1)
        if self.is_over:
            self.close()

    def _stop(self) -> None:
        try:
            self.stop()
        except WriterNotClosedException:
            # Its thread is in a name server's hands, which nothing can hurry; it ends by itself after that.
            _log.warning("the name of a ZooKeeper server is still being looked up; its thread is left to end by itself")
