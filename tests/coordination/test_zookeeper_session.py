"""The session with a real ZooKeeper: bounded calls, errors of ours, what survives which loss, nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from coordination.polling import fork, until
from kazoo.client import KazooClient
from kazoo.protocol.serialization import ReplyHeader
from link_proxy import LinkProxy
from zookeeper_servers import Servers

from envmgr.coordination.zookeeper.client import boot_time
from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.session import (
    BadVersion,
    Check,
    Create,
    Delete,
    NodeExists,
    NoNode,
    NotEmpty,
    Put,
    Session,
)
from envmgr.errors import CoordinatorUnavailable, LockfileTooLarge
from envmgr.wire.tree import LARGEST_NODE_BYTES


@pytest.fixture
def proxy(zookeeper: Servers) -> Iterator[LinkProxy]:
    """A link to the server that can be broken."""
    with LinkProxy(zookeeper.addresses[0]) as proxy:
        yield proxy


@pytest.fixture
def behind(endpoint: Endpoint, proxy: LinkProxy) -> Endpoint:
    """The endpoint at the end of that link."""
    return replace(endpoint, servers=(proxy.address,))


@pytest.mark.slow
def test_servers_that_never_answer_are_told_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A daemon with a wrong setting says which servers do not answer, and why; once."""
    session = Session(Endpoint(servers=("127.0.0.1:1",), root="/x"))
    session.start(0.0)
    try:
        until(lambda: "has not answered yet (127.0.0.1:1: [Errno 111]" in caplog.text)
        assert caplog.text.count("setting zookeeper: 127.0.0.1:1") == 1
    finally:
        session.close()


def test_names_without_an_address() -> None:
    """Servers whose names nobody knows are named in the error, as those that refuse a connection are."""
    session = Session(Endpoint(servers=("nowhere.invalid:2181",)))
    session.start(0.1)
    try:
        until(lambda: session.problem)
        with pytest.raises(CoordinatorUnavailable) as caught:
            session.get("/v1", timeout_s=0.1)
        assert "no address is known of nowhere.invalid" in caught.value.message
    finally:
        session.close()


@pytest.fixture
def broken(behind: Endpoint) -> Iterator[Session]:
    """A session behind the proxy, connected, with a tree begun."""
    session = Session(behind)
    session.start()
    session.create("/v1")
    yield session
    session.close()


def expire(session: Session, endpoint: Endpoint) -> None:
    """Have the servers give the session up, as if it had been silent for too long."""
    client = session._client
    assert client is not None
    epoch = session.epoch
    thief = KazooClient(",".join(endpoint.servers), client_id=client.client_id)
    thief.start()
    thief.stop()
    thief.close()
    until(lambda: session.epoch > epoch and session.is_connected)


class TestCalls:
    """One node, and transactions."""

    def test_a_node_is_made_with_its_parents_read_changed_and_deleted(self, session: Session) -> None:
        """Every verb does what it says, versions are compared, and the errors are ours."""
        made = session.create("/v1/a/b/c", b"one")
        assert session.get("/v1/a/b/c") == made
        assert abs(made.modified_at - time.time()) < 60
        assert session.put("/v1/a/b/c", b"two", version=0).version == 1
        assert session.children("/v1/a/b") == ("c",)
        with pytest.raises(NodeExists):
            session.create("/v1/a/b/c")
        with pytest.raises(BadVersion):
            session.put("/v1/a/b/c", b"", version=0)
        with pytest.raises(BadVersion):
            session.delete("/v1/a/b/c", version=0)
        with pytest.raises(NotEmpty):
            session.delete("/v1/a/b")
        session.delete("/v1/a/b/c", version=1)
        with pytest.raises(NoNode):
            session.put("/v1/a/b/c", b"")
        with pytest.raises(NoNode):
            session.delete("/v1/a/b/c")

    def test_what_is_not_there_is_none_and_without_children(self, session: Session) -> None:
        """A missing node is no error to who reads."""
        assert session.get("/v1/nothing") is None
        assert session.children("/v1/nothing") == ()

    def test_a_transaction_does_all_or_nothing_and_says_which_operation_failed(self, session: Session) -> None:
        """The first failing operation's own error is raised, with its place, however many others were rolled back."""
        session.create("/v1/a", b"")
        session.write([Create("/v1/b", b"b"), Put("/v1/a", b"new"), Check("/v1/a", 1), Create("/v1/b/c")])
        node = session.get("/v1/a")
        assert node is not None
        assert node.data == b"new"
        with pytest.raises(NoNode) as refused:
            session.write([Create("/v1/d"), Put("/v1/a", b"x"), Check("/v1/gone"), Create("/v1/e")])
        assert (refused.value.index, refused.value.path) == (2, "/v1/gone")
        with pytest.raises(BadVersion) as stale:
            session.write([Create("/v1/d"), Delete("/v1/a", 7)])
        assert stale.value.index == 1
        with pytest.raises(NodeExists) as there:
            session.write([Create("/v1/b")])
        assert there.value.index == 0
        assert session.children("/v1") == ("a", "b")

    def test_what_is_too_large_is_refused_before_it_is_sent(self, session: Session) -> None:
        """kazoo's trap: a request over the servers' limit drops the connection, and is sent again without end."""
        states: list[str] = []
        session.hear(states.append)
        whole = session.create("/v1/large", bytes(LARGEST_NODE_BYTES))
        assert len(whole.data) == LARGEST_NODE_BYTES
        for attempt in (
            lambda: session.put("/v1/large", bytes(LARGEST_NODE_BYTES + 1)),
            lambda: session.create("/v1/larger", bytes(2_000_000)),
            lambda: session.write([Put("/v1/large", bytes(500_000)), Put("/v1/large", bytes(500_000))]),
        ):
            with pytest.raises(LockfileTooLarge, match="900000"):
                attempt()
        session.sync()
        assert states == []
        assert session.epoch == 1


class TestWatches:
    """Hints that something changed."""

    def test_a_watch_is_called_once_on_a_thread_that_may_call_the_session(self, session: Session) -> None:
        """Made, changed, children, deleted: each is told, and who is told may ask at once."""
        told: list[object] = []
        session.get("/v1/a", watch=lambda: told.append(session.get("/v1/a")))
        session.create("/v1/a", b"1")
        until(lambda: len(told) == 1)
        session.get("/v1/a", watch=lambda: told.append(session.get("/v1/a")))
        session.children("/v1/a", watch=lambda: told.append(session.children("/v1/a")))
        session.put("/v1/a", b"2")
        session.create("/v1/a/child")
        until(lambda: len(told) == 3)
        session.children("/v1/later", watch=lambda: told.append("later"))
        session.create("/v1/later")
        until(lambda: told[-1] == "later")
        session.put("/v1/a", b"3")
        session.sync()
        assert len(told) == 4

    def test_a_failing_watch_does_not_silence_the_others(
        self, session: Session, caplog: pytest.LogCaptureFixture
    ) -> None:
        """One caller's error is logged, and the next watch is called."""
        told = threading.Event()
        session.get("/v1/a", watch=lambda: 1 / 0)  # type: ignore[arg-type, return-value]
        session.get("/v1/b", watch=told.set)
        session.create("/v1/a")
        session.create("/v1/b")
        assert told.wait(10)
        assert "ZeroDivisionError" in caplog.text

    def test_a_lost_connection_wakes_every_watch(self, broken: Session, proxy: LinkProxy) -> None:
        """What changed meanwhile may have been missed, so who watches is told to look again."""
        told = threading.Event()
        broken.get("/v1", watch=told.set)
        proxy.break_all()
        assert told.wait(10)

    def test_a_watch_set_again_and_again_is_kept_once(self, session: Session) -> None:
        """A thousand looks at a quiet node leave one watch."""
        session.create("/v1/quiet")

        def look() -> None:
            pass

        for _ in range(1000):
            session.get("/v1/quiet", watch=look)
        client = session._client
        assert client is not None
        assert sum(map(len, client._data_watchers.values())) == 1


class TestWithoutAnswers:
    """Every call ends in its time."""

    def test_a_start_without_servers_is_no_error_and_calls_end_in_time(
        self, behind: Endpoint, proxy: LinkProxy
    ) -> None:
        """Nobody answers: start returns, calls raise in their time, and all is well once somebody does."""
        proxy.cut()
        with started(behind, 0.1) as session:
            for call in (lambda: session.get("/v1", timeout_s=0.2), lambda: session.create("/v1", timeout_s=0.2)):
                began = time.monotonic()
                with pytest.raises(CoordinatorUnavailable) as silent:
                    call()
                assert silent.value.fields["is_unknown"] is False
                assert silent.value.is_transient
                assert time.monotonic() - began < 1
            proxy.mend()
            assert session.wait_connected(5)
            assert session.create("/v1").version == 0

    def test_calls_end_in_time_while_the_link_is_silent(self, broken: Session, proxy: LinkProxy) -> None:
        """kazoo's trap: while it is suspended, calls are queued for ever. Here all of them are bounded."""
        proxy.silence()
        calls = (
            lambda: broken.get("/v1", timeout_s=0.3),
            lambda: broken.children("/v1", timeout_s=0.3),
            lambda: broken.put("/v1", b"", timeout_s=0.3),
            lambda: broken.delete("/v1/x", timeout_s=0.3),
            lambda: broken.write([Put("/v1", b"")], timeout_s=0.3),
            lambda: broken.sync(timeout_s=0.3),
        )
        for call in calls * 2:
            began = time.monotonic()
            with pytest.raises(CoordinatorUnavailable):
                call()
            assert time.monotonic() - began < 1.3

    def test_a_read_that_met_a_lost_connection_is_asked_again(self, broken: Session, proxy: LinkProxy) -> None:
        """Within its time a read does not fail because of a connection that broke and came back."""
        proxy.silence("down")
        results: list[object] = []
        reader = threading.Thread(target=lambda: results.append(broken.get("/v1", timeout_s=10)))
        passed = proxy.passed["up"]
        reader.start()
        until(lambda: proxy.passed["up"] > passed)
        proxy.break_all()
        proxy.mend()
        reader.join(15)
        assert [type(result).__name__ for result in results] == ["Node"]

    def test_a_write_whose_answer_was_lost_says_that_nobody_knows(
        self, broken: Session, session: Session, proxy: LinkProxy
    ) -> None:
        """The server did it, the answer did not come: the caller is told to look, and it is not sent twice."""
        proxy.silence_after(b"unheard")
        with pytest.raises(CoordinatorUnavailable) as lost:
            broken.create("/v1/unheard", timeout_s=1)
        assert lost.value.fields["is_unknown"] is True
        proxy.mend()
        assert session.get("/v1/unheard") is not None

    def test_the_validity_ends_before_the_servers_give_the_session_up(
        self, broken: Session, session: Session, proxy: LinkProxy
    ) -> None:
        """The link falls silent: by our own clock the session is uncertain before its nodes are gone."""
        broken.create("/v1/mine", is_ephemeral=True)
        gone_at: list[float] = []
        assert session.get("/v1/mine", watch=lambda: gone_at.append(boot_time())) is not None
        with broken.relying():
            until(lambda: broken.certainly_alive_until() > boot_time() + broken.timeout_s / 2)
            proxy.silence()
            until(lambda: gone_at)
            assert broken.certainly_alive_until() < gone_at[0]
            assert not broken.is_certain(1)

    def test_a_session_that_is_relied_on_stays_certain(self, session: Session) -> None:
        """As long as the servers answer, nothing that is held becomes uncertain."""
        with session.relying():
            end = boot_time() + 1.2 * session.timeout_s
            while boot_time() < end:
                assert session.is_certain(1)
                time.sleep(0.02)

    def test_a_server_that_stands_still_costs_nothing(self, ensemble: Servers, endpoint: Endpoint) -> None:
        """The follower that we are connected to is stopped: another is found before the session is uncertain."""
        leader = ensemble.leader()
        followers = tuple(address for number, address in enumerate(ensemble.addresses) if number != leader)
        with started(replace(endpoint, servers=followers, session_s=4.0)) as session, session.relying():
            until(lambda: session.is_certain(1))
            client = session._client
            assert client is not None
            port = client.handler._socket.getpeername()[1]
            number = [address.endswith(f":{port}") for address in ensemble.addresses].index(True)
            states: list[str] = []
            session.hear(states.append)
            ensemble.signal(number, signal.SIGSTOP)
            while "connected" not in states:
                assert session.is_certain(1)
                time.sleep(0.01)
            assert session.get("/v1") is None


class TestSessions:
    """What comes after what."""

    def test_an_expired_session_is_followed_by_a_new_one(self, broken: Session, behind: Endpoint) -> None:
        """Somebody closes our session: what it held is gone, it is told, the epoch rises, and calls work again."""
        states: list[str] = []
        broken.hear(states.append)
        broken.create("/v1/mine", is_ephemeral=True)
        first = broken.session_id
        expire(broken, behind)
        assert broken.epoch == 2
        assert broken.session_id != first
        assert not broken.is_certain(1)
        assert broken.is_certain(2)
        assert broken.get("/v1/mine") is None
        until(lambda: states[-1] == "connected")
        assert "lost" in states

    def test_a_session_outlives_a_connection(self, broken: Session, proxy: LinkProxy) -> None:
        """The connection breaks and comes back in time: the same session, and its nodes stand."""
        states: list[str] = []
        broken.hear(states.append)
        broken.create("/v1/mine", is_ephemeral=True)
        proxy.break_all()
        until(lambda: states[-2:] == ["suspended", "connected"])
        assert broken.epoch == 1
        assert broken.get("/v1/mine") is not None

    def test_requests_of_one_session_never_have_the_same_number(self, broken: Session, proxy: LinkProxy) -> None:
        """kazoo's trap: it counts from 1 again with each connection.

        Servers tell by session and number which request was committed, and a late commit of the connection before
        would be the answer to a request of this one: a write would be said to be done that never was.
        """
        client = broken._client
        assert client is not None
        states: list[str] = []
        broken.hear(states.append)
        for number in range(5):
            broken.put("/v1", b"")
            last = client._connection._xid
            proxy.break_all()
            until(lambda number=number: states == ["suspended", "connected"] * (number + 1))
            broken.put("/v1", b"")
            assert client._connection._xid > last
        assert broken.epoch == 1

    def test_it_comes_back_soon_after_a_long_outage(self, endpoint: Endpoint, zookeeper: Servers) -> None:
        """kazoo's trap: its pauses between tries grow up to an hour. Ours are two seconds at most."""
        with (
            LinkProxy(zookeeper.addresses[0]) as proxy,
            started(replace(endpoint, servers=(proxy.address,))) as session,
        ):
            client = session._client
            assert client is not None
            retry = client._connection.retry_sleeper
            assert (retry.max_tries, retry.max_delay) == (-1, 2.0)
            proxy.cut()
            until(lambda: not session.is_connected)
            time.sleep(1.5)  # the outage: so long that pauses have grown
            proxy.mend()
            began = time.monotonic()
            assert session.wait_connected(10)
            assert time.monotonic() - began < 3.5

    def test_it_begins_anew_when_kazoo_gave_up(self, session: Session) -> None:
        """kazoo ends for good when it is refused; the session does not."""
        client = session._client
        assert client is not None
        client.stop()
        until(lambda: session._client is not client and session.is_connected)
        assert session.create("/v1/again").version == 0

    def test_an_answer_that_kazoo_does_not_understand_is_an_error_of_ours(self, session: Session) -> None:
        """kazoo's trap: its thread ends over it. Here the connection is made again, and the session goes on."""
        client = session._client
        assert client is not None
        session.create("/v1")
        client._pending.append((None, None, 0))  # as if a request had been sent whose answer never comes
        with pytest.raises(CoordinatorUnavailable):
            session.put("/v1", b"", timeout_s=5)
        assert session.get("/v1", timeout_s=10) is not None
        assert session.epoch == 1

    def test_a_late_answer_of_the_connection_before_is_nobodys(self, session: Session) -> None:
        """A server sends it after the connection was made again; it answers no request of ours."""
        client = session._client
        assert client is not None
        session.create("/v1")
        stale = ReplyHeader(client._connection._xid - 1, 0, 0)
        assert client._connection._read_response(stale, b"", 0) is None
        assert session.put("/v1", b"").version == 1

    def test_a_child_made_by_fork_cannot_use_it_and_harms_nothing(self, session: Session) -> None:
        """kazoo's trap: the child sees a connection, and every call hangs. Here each raises at once."""
        session.create("/v1/mine", is_ephemeral=True)
        read, write = os.pipe()
        pid = fork()
        if pid == 0:
            answer = b"wrong"
            try:
                assert not session.is_connected
                assert not session.is_certain(1)
                session.get("/v1/mine")
            except CoordinatorUnavailable as error:
                session.close()
                answer = b"refused" if "fork" in error.message else b"wrong error"
            finally:
                os.write(write, answer)
                os._exit(0)
        os.close(write)
        assert os.waitpid(pid, 0)[1] == 0
        with os.fdopen(read, "rb") as file:
            assert file.read() == b"refused"
        assert session.get("/v1/mine") is not None
        assert session.epoch == 1

    def test_close_ends_the_session_at_once_and_leaves_nothing(self, endpoint: Endpoint) -> None:
        """Ephemeral nodes go at once, no thread or descriptor is left, and calls are refused; also a second time."""
        before = (threading.active_count(), descriptors(), waits())
        with started(endpoint) as session:
            other = Session(endpoint)
            other.start()
            other.create("/v1/other", is_ephemeral=True)
            assert session.get("/v1/other") is not None
            other.close()
            session.sync()
            assert session.get("/v1/other") is None
            other.close()
            with pytest.raises(CoordinatorUnavailable, match="closed"):
                other.get("/v1")
        until(lambda: (threading.active_count(), descriptors(), waits()) == before)

    def test_close_is_bounded_while_nobody_answers(self, behind: Endpoint, proxy: LinkProxy) -> None:
        """kazoo's trap: it waits for a farewell for the length of a session. Silent, cut, or never connected."""
        before = threading.active_count()
        for breaks in (proxy.silence, proxy.cut):
            session = Session(behind)
            session.start()
            breaks()
            began = time.monotonic()
            session.close()
            assert time.monotonic() - began < 3
            if breaks == proxy.silence:
                proxy.mend()
        proxy.break_all()
        session = Session(behind)
        session.start(timeout_s=0)
        session.close()
        until(lambda: threading.active_count() <= before)

    @pytest.mark.slow
    def test_a_thousand_reconnects_leak_nothing(
        self, behind: Endpoint, proxy: LinkProxy, zookeeper: Servers, session: Session
    ) -> None:
        """Ten sessions lose their connection a hundred times: no thread, descriptor, watch or node more than before."""
        session.create("/v1/watched")
        with contextlib.ExitStack() as stack:
            many = [stack.enter_context(started(behind)) for _ in range(10)]
            told = [0]

            def look() -> None:
                told[0] += 1

            def round_trip() -> None:
                for one in many:
                    one.get("/v1/watched", watch=look, timeout_s=20)
                    one.children("/v1", watch=look, timeout_s=20)

            for number, one in enumerate(many):
                one.create(f"/v1/mine-{number}", is_ephemeral=True)
            round_trip()
            nodes = session.children("/v1")
            usage = (threading.active_count(), descriptors())
            for _ in range(100):
                proxy.break_all()
                until(lambda: all(not one.is_connected for one in many) or told[0])
                round_trip()
                told[0] = 0
            until(lambda: (threading.active_count(), descriptors()) == usage and waits() <= len(many) + 1)
            assert [one.epoch for one in many] == [1] * 10
            assert session.children("/v1") == nodes
            for one in many:
                client = one._client
                assert client is not None
                watches = [*client._data_watchers.values(), *client._child_watchers.values()]
                assert sum(map(len, watches)) == 2
            by_path = zookeeper.ask(0, "wchp").split(f"{behind.root}/v1/watched\n")[1]
            assert sum(line.startswith("\t") for line in by_path.splitlines()[:11]) == 10


@contextlib.contextmanager
def started(endpoint: Endpoint, timeout_s: float = 10.0) -> Iterator[Session]:
    """Run a session for the length of a block."""
    session = Session(endpoint)
    session.start(timeout_s)
    try:
        yield session
    finally:
        session.close()


_WAIT = "anon_inode:[eventpoll]"


def descriptors() -> int:
    """Return how many descriptors this process has open, but for `waits`."""
    return sum(target != _WAIT for target in _open())


def waits() -> int:
    """Return how many are there to wait by: kazoo's thread makes one for each time, so in between there is none."""
    return _open().count(_WAIT)


def _open() -> list[str]:
    found = []
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{entry}"))
    return found
