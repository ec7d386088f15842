"""One connection to the daemon: whatever the daemon does, the client answers or says what is wrong, in bounded time."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.processes import Forked, gates
from scripted_daemon import Peer, playing

from envmgr.errors import (
    Cancelled,
    DaemonUnavailable,
    EnvironmentInUse,
    EnvmgrError,
    InvalidSpec,
    PermissionRefused,
    PolicyRefused,
    TimedOut,
)
from envmgr.manager.context import SystemClock
from envmgr.manager.waiting import TimeLimit
from envmgr.model import Problem, Usage
from envmgr.remote import connection as connections
from envmgr.remote.connection import Absent, Connection, Patience
from envmgr.wire import address

SHORT = Patience(connect_s=0.3, answer_s=0.3, silence_s=0.3, reconnect_s=0.3)
DATA = {"data": {"name": "x"}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


def ask(path: Path, limit: TimeLimit | None = None, request: object = None) -> dict[str, object]:
    with contextlib.closing(Connection(str(path), limit=limit, patience=SHORT)) as connection:
        return connection.ask("POST", "/v1/x", request)


def test_an_answer_may_come_in_any_pieces(path: Path) -> None:
    """Head and body are put together byte by byte, with a length or in chunks."""
    body = json.dumps(DATA).encode()
    whole = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
    chunks = b"".join(b"1;x=y\r\n%c\r\n" % byte for byte in body)
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\nTrailer: x\r\n\r\n"

    def scene(answer: bytes) -> Callable[[Peer], None]:
        def play(peer: Peer) -> None:
            peer.request()
            for index in range(len(answer)):
                peer.write(answer[index : index + 1])
            peer.wait_for_the_end()

        return play

    with playing(path, scene(whole), scene(chunked)):
        assert ask(path) == ask(path) == DATA["data"]


def test_a_large_request_arrives_whole(path: Path) -> None:
    """A body that no socket's buffer holds is sent while the daemon reads it."""
    usage = Usage(1, 2, "x" * (4 << 20), "lease")

    def play(peer: Peer) -> None:
        assert peer.answer(DATA).document == usage.to_json()

    with playing(path, play):
        ask(path, request=usage)


@pytest.mark.parametrize(
    "error",
    [
        PolicyRefused("no", hint="do", rule="channels", setting="allowed_channels"),
        EnvironmentInUse("busy", (Usage(7, 8, "python", "lease"),)),
        InvalidSpec("bad", (Problem(1, 2, "odd", "even"),)),
        EnvmgrError("what nobody foresaw"),
    ],
)
def test_an_error_arrives_as_what_it_is(path: Path, error: EnvmgrError) -> None:
    """Class, message, hint and fields of the daemon's error are the caller's, with the records that go with it."""
    with playing(path, lambda peer: peer.refuse(error) and None), pytest.raises(type(error)) as raised:
        ask(path)
    assert raised.value.to_json() == error.to_json()
    assert type(raised.value) is type(error)
    for records in ("users", "problems"):
        assert getattr(raised.value, records, None) == getattr(error, records, None)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{"error": 1}',
        b"HTTP/1.1 502 x\r\nContent-Length: 4\r\n\r\nnope",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n" + b"x" * 100,
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n{}",
        b"x" * (1 << 17),
    ],
)
def test_rubbish_is_a_daemon_that_is_not_available(path: Path, said: bytes) -> None:
    """Whatever is no answer of a daemon's, or is broken off, is `DaemonUnavailable` with the socket and a hint."""

    def play(peer: Peer) -> None:
        peer.request()
        peer.write(said)

    with playing(path, play), pytest.raises(DaemonUnavailable) as raised:
        ask(path)
    assert str(path) in raised.value.message
    assert raised.value.hint is not None
    assert raised.value.is_transient


def test_a_daemon_that_stands_still_is_not_waited_for(path: Path) -> None:
    """One that takes connections and says nothing is `DaemonUnavailable` when it does not say that it lives either."""
    began = time.monotonic()
    with (
        playing(path, Peer.wait_for_the_end, backlog=4),
        pytest.raises(DaemonUnavailable, match="has not answered") as raised,
    ):
        ask(path)
    assert time.monotonic() - began < 5
    assert "ended" in str(raised.value.hint)  # another one cannot be started beside it


def test_a_slow_daemon_that_lives_is_waited_for(path: Path) -> None:
    """An answer may take longer than the patience with the daemon, as long as it says that it lives."""
    has_been_asked = threading.Event()
    slow: list[Peer] = []

    def begin(peer: Peer) -> None:
        peer.request()
        # The scene ends, but not the connection: the next one is the question whether it lives.
        slow.append(Peer(peer.connection.dup()))

    def lives(peer: Peer) -> None:
        assert peer.answer({"data": {"status": "ok"}}).target == "/v1/health/live"
        has_been_asked.set()
        body = json.dumps(DATA)
        slow[0].write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        slow[0].close()

    with playing(path, begin, lives):
        assert ask(path) == DATA["data"]
    assert has_been_asked.is_set()


def test_the_callers_own_limit_ends_every_wait(path: Path) -> None:
    """A time limit and a wish to stop end the wait for an answer at once, with the errors that they have elsewhere."""
    wish = threading.Event()

    def told(peer: Peer) -> None:
        peer.request()
        wish.set()
        peer.wait_for_the_end()

    with playing(path, Peer.wait_for_the_end), pytest.raises(TimedOut, match=r"not ready within 0\.1 s"):
        ask(path, TimeLimit(SystemClock(), 0.1))
    with playing(path, told), pytest.raises(Cancelled):
        ask(path, TimeLimit(SystemClock(), None, wish.is_set))


def test_an_end_is_an_end_although_a_child_was_forked_meanwhile(path: Path) -> None:
    """The daemon sees the connection closed, and gives back what it holds, while a fork has a copy of the socket."""
    with gates(1) as [is_seen]:

        def play(peer: Peer) -> None:
            peer.answer(DATA)
            peer.wait_for_the_end()
            is_seen.open()

        with playing(path, play):
            connection = Connection(str(path), patience=SHORT)
            connection.ask("GET", "/v1/x")
            child = Forked(is_seen.wait)
            connection.close()
            child.result()


def test_nobody_there(path: Path) -> None:
    """No socket, a socket that its daemon left behind, and a file in the way are all a daemon that is not running."""
    with pytest.raises(Absent):
        Connection(str(path))
    assert not connections.answers(str(path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    assert not connections.answers(str(path))
    (path.parent / "file").write_text("")
    assert not connections.answers(str(path.parent / "file"))
    assert not connections.answers(str(path.parent / "file" / "s"))


def test_a_queue_that_is_full_is_not_waited_for_for_ever(path: Path) -> None:
    """A daemon that no longer takes connections is `DaemonUnavailable`, not absent: it is there."""
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as others:
        listener.bind(str(path))
        listener.listen(0)
        others.enter_context(contextlib.closing(Connection(str(path), patience=SHORT)))
        with pytest.raises(DaemonUnavailable, match="takes no connection") as raised:
            Connection(str(path), patience=SHORT)
        assert not isinstance(raised.value, Absent)


def test_a_socket_with_a_long_path(tmp_path: Path) -> None:
    """A socket below a path that no address holds is reached all the same, and leaves no descriptor behind."""
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    before = len(os.listdir("/proc/self/fd"))
    at = os.open(directory, os.O_PATH)
    try:
        with playing(Path(f"/proc/self/fd/{at}/s"), lambda peer: peer.answer(DATA) and None):
            assert ask(directory / "s") == DATA["data"]
    finally:
        os.close(at)
    assert not connections.answers(str(directory / "s"))
    assert not connections.answers(str(tmp_path / ("e" * 120) / "s"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_strangers_socket_at_the_end_of_the_link(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a killed daemon's link leads to, the socket of another user than the link's owner is not asked."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to give files away")
    monkeypatch.delenv(address.VARIABLE, raising=False)
    (tmp_path / address.LINK_NAME).symlink_to(path)
    assert address.socket_of(str(tmp_path)) == str(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert address.socket_of(str(tmp_path)) == str(path)
        os.chown(path, 65534, 65534)
        assert address.socket_of(str(tmp_path)) is None
        os.chown(tmp_path / address.LINK_NAME, 65534, 65534, follow_symlinks=False)
        assert address.socket_of(str(tmp_path)) == str(path)


def test_a_socket_that_this_user_may_not_use(path: Path) -> None:
    """Who is not in the socket's group is told so."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")

    def work() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        Connection(str(path))

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        path.chmod(0o660)
        for directory in path.parents:
            if not directory.stat().st_mode & 0o001:
                directory.chmod(directory.stat().st_mode | 0o011)
        listener.listen()
        with pytest.raises(PermissionRefused, match="may not connect") as raised:
            Forked(work).result()
    assert raised.value.hint is not None
    assert "the group root may" in raised.value.hint
