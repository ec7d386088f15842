"""An operation is followed to its end, whatever becomes of connections and daemons; shown on a scripted daemon."""

from __future__ import annotations

import itertools
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_daemon import Peer, Scene, operation, playing

from envmgr.errors import (
    Busy,
    Cancelled,
    DaemonUnavailable,
    EnvironmentNotFound,
    EnvmgrError,
    TimedOut,
    Unsatisfiable,
)
from envmgr.events import Event, Reporter
from envmgr.manager.context import SystemClock
from envmgr.manager.waiting import TimeLimit
from envmgr.remote import events
from envmgr.remote.connection import Patience
from envmgr.remote.following import Following
from envmgr.wire import socket as wire

QUICK = Patience(connect_s=1.0, answer_s=1.0, silence_s=0.3, reconnect_s=1.0)
RESULT = {"name": "env-0123456789abcdef", "lock_digest": "d", "text": "t"}
BEGIN = Event("begin", "solve")


class Case:
    """One request that is followed, and what was said meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.events: list[Event] = []

    def end(
        self, *, timeout_s: float | None = None, patience: Patience = QUICK, report: Reporter | None = None
    ) -> wire.Result | None:
        limit = TimeLimit(SystemClock(), timeout_s)
        following = Following(
            str(self.path), "/v1/lockfiles", wire.RelockRequest(), limit=limit,
            report=report or self.events.append, patience=patience,
        )  # fmt: skip
        ended = following.end()
        ended.connection.close()
        return ended.result

    @property
    def said(self) -> list[tuple[str, str]]:
        return [(event.kind, event.phase) for event in self.events]


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path / "s")


def accept(peer: Peer, *, id: str = "op1") -> None:  # noqa: A002
    request = peer.answer({"data": {"operation": operation("running", id=id)}}, 202)
    assert (request.method, request.target) == ("POST", "/v1/lockfiles")


def finish(peer: Peer, number: int, **changes: Any) -> None:
    peer.event(number, "end", operation("succeeded", **{"result": RESULT, **changes}))


def accept_and_finish(peer: Peer) -> None:
    accept(peer)
    peer.stream()
    finish(peer, 1)


def test_a_broken_stream_is_resumed_behind_the_last_event(case: Case) -> None:
    """The next connection asks for what comes behind the last event that was heard; nothing is heard twice."""

    def first(peer: Peer) -> None:
        accept(peer)
        assert "last-event-id" not in peer.stream().headers
        peer.event(1, "state", operation("running"))
        peer.event(2, "progress", BEGIN.to_json())

    def second(peer: Peer) -> None:
        request = peer.stream()
        assert (request.target, request.headers["last-event-id"]) == ("/v1/operations/op1/events", "2")
        peer.event(3, "lost", {"count": 7})
        peer.event(4, "progress", {"kind": "begin", "phase": "a newer daemon's"})
        peer.event(10, "progress", Event("end", "solve").to_json())
        finish(peer, 11)

    with playing(case.path, first, second):
        assert case.end() == wire.LockResult(**RESULT)
    assert case.said == [("begin", "solve"), ("end", "solve")]


def test_a_daemon_that_forgot_the_operation_is_asked_again(case: Case) -> None:
    """One that was restarted knows no operation: the request is made again."""

    def first(peer: Peer) -> None:
        accept(peer)

    def forgot(peer: Peer) -> None:
        peer.refuse(EnvironmentNotFound("there is no operation op1"))

    def again(peer: Peer) -> None:
        accept(peer, id="op2")
        assert peer.stream().target == "/v1/operations/op2/events"
        finish(peer, 1, id="op2")

    with playing(case.path, first, forgot, again):
        assert case.end() == wire.LockResult(**RESULT)


def test_a_request_that_ends_its_daemon_is_not_made_for_ever(case: Case) -> None:
    """After so many daemons that forgot it, a request is given up with a hint."""

    def forget(peer: Peer) -> None:
        accept(peer)
        peer.refuse(EnvironmentNotFound("there is no operation op1"))

    with playing(case.path, *[forget] * 4), pytest.raises(EnvmgrError, match="lost this request 4 times"):
        case.end()


@pytest.mark.parametrize("is_broken", [True, False])
def test_an_operation_that_the_daemon_cancelled_by_itself_is_asked_for_again(case: Case, *, is_broken: bool) -> None:
    """Nobody was heard who waits, or the daemon stops: nobody's wish. Somebody's is final, also after a break."""
    cancelled = operation("cancelled", error=Cancelled("nobody waits for it", is_by_daemon=True).to_json())

    wish = operation("cancelled", error=Cancelled("root cancelled it").to_json())

    def scenes(end: dict[str, Any]) -> list[Scene]:
        def broken(peer: Peer) -> None:
            accept(peer)
            peer.stream()

        def listened(peer: Peer) -> None:
            if not is_broken:
                accept(peer)
            peer.stream()
            peer.event(1, "end", end)

        return [broken, listened] if is_broken else [listened]

    with playing(case.path, *scenes(cancelled), accept_and_finish):
        assert case.end() == wire.LockResult(**RESULT)

    def is_well(peer: Peer) -> None:
        assert peer.answer({"data": {"status": "ok"}}).target == "/v1/health/ready"

    with playing(case.path, *scenes(wish), is_well), pytest.raises(Cancelled, match="root cancelled it"):
        case.end()


def test_a_failed_operation_raises_what_failed(case: Case) -> None:
    """Class, message, hint and fields are those of the failure, also where the class is one that is mended else."""
    for error in (Unsatisfiable("no", hint="other", found=[1]), DaemonUnavailable("stopping"), Busy("x")):

        def play(peer: Peer, error: EnvmgrError = error) -> None:
            accept(peer)
            peer.stream()
            peer.event(1, "end", operation("failed", error=error.to_json()))

        with playing(case.path, play), pytest.raises(type(error)) as raised:
            case.end()
        assert raised.value.to_json() == error.to_json()


def test_a_daemon_with_too_much_to_do_is_waited_for_and_it_is_said_once(case: Case) -> None:
    """Busy answers are waited out for as long as they say, said once; a limit that is shorter raises at once."""
    busy = Busy("too much", retry_after_s=0.1)

    def refuse(peer: Peer) -> None:
        peer.refuse(busy)

    with playing(case.path, refuse, refuse, accept_and_finish):
        assert case.end() == wire.LockResult(**RESULT)
    assert case.said == [("begin", "wait"), ("end", "wait")]
    with playing(case.path, refuse), pytest.raises(Busy) as raised:
        case.end(timeout_s=0.05)
    assert raised.value.to_json() == busy.to_json()


def test_a_place_in_the_queue_is_said_once(case: Case) -> None:
    """That others come before us is said when it takes longer than a moment, and ends when the work begins."""
    is_said = threading.Event()

    def play(peer: Peer) -> None:
        peer.answer({"data": {"operation": operation("queued", position=2)}}, 202)
        peer.stream()
        peer.event(1, "state", operation("queued", position=1))
        while not is_said.wait(0.1):
            peer.write(b"2\r\n:\n\r\n")
        peer.event(2, "state", operation("running"))
        peer.event(3, "progress", BEGIN.to_json())
        finish(peer, 4)

    with playing(case.path, play):
        case.end(report=lambda event: (case.events.append(event), is_said.set()))
    assert case.said == [("begin", "wait"), ("end", "wait"), ("begin", "solve")]


def test_a_queue_that_is_passed_at_once_is_not_worth_a_word(case: Case) -> None:
    """What begins at once is told as without a daemon: no waiting."""

    def play(peer: Peer) -> None:
        peer.answer({"data": {"operation": operation("queued", position=1)}}, 202)
        peer.stream()
        peer.event(1, "state", operation("running"))
        peer.event(2, "progress", BEGIN.to_json())
        finish(peer, 3)

    with playing(case.path, play):
        case.end()
    assert case.said == [("begin", "solve")]


def test_a_stopping_daemon_is_asked_until_the_next_one_is_there(case: Case) -> None:
    """A refusal of a daemon that stops is a break like any other: the one that follows it is asked."""

    def stopping(peer: Peer) -> None:
        peer.refuse(DaemonUnavailable("the daemon is stopping"))

    with playing(case.path, stopping, stopping, accept_and_finish):
        assert case.end() == wire.LockResult(**RESULT)


def test_a_silent_stream_ends_in_an_error_in_bounded_time(case: Case) -> None:
    """Without a sign of life the stream is dropped, the daemon tried again, and then said to be unavailable."""

    def play(peer: Peer) -> None:
        accept(peer)
        peer.stream()
        peer.wait_for_the_end()

    began = time.monotonic()
    with playing(case.path, play, Peer.wait_for_the_end), pytest.raises(DaemonUnavailable) as raised:
        case.end(patience=Patience(0.3, 0.3, 0.3, 0.3))
    assert time.monotonic() - began < 5
    assert raised.value.hint is not None


def test_a_keepalive_is_a_sign_of_life(case: Case) -> None:
    """Comments keep a stream alive in which nothing happens."""

    def play(peer: Peer) -> None:
        accept(peer)
        peer.stream()
        until = time.monotonic() + 2 * QUICK.silence_s
        while time.monotonic() < until:
            peer.write(b"2\r\n:\n\r\n")
        finish(peer, 1)

    with playing(case.path, play):
        assert case.end() == wire.LockResult(**RESULT)


def test_a_daemon_that_does_not_come_back(case: Case) -> None:
    """Broken off with nobody there any more: `DaemonUnavailable` after the time for coming back; a limit ends it."""
    short = Patience(1.0, 1.0, 1.0, 0.2)
    with playing(case.path, accept), pytest.raises(DaemonUnavailable, match="is not running"):
        case.end(patience=short)
    with playing(case.path, accept), pytest.raises(TimedOut):
        case.end(timeout_s=0.3, patience=Patience(1.0, 1.0, 1.0, 60.0))


@settings(max_examples=50, deadline=None)
@given(cuts=st.lists(st.integers(0, 200), max_size=12), has_cr=st.booleans())
def test_events_come_in_any_pieces(*, cuts: list[int], has_cr: bool) -> None:
    """However a stream is cut, the same events come out; comments and unknown fields are no events."""
    text = (
        ': hello\n\nid: 1\nevent: progress\ndata: {"a":\ndata:  1}\n\nretry: 5\ndata: {"b": "ä"}\nid: x\n\n'
        ":\n\nevent: end\nid: 9\ndata: {}\n\nevent: cut\ndata: {}\n"
    )
    stream = text.replace("\n", "\r\n" if has_cr else "\n").encode()
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    blocks = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert list(events.parse(blocks)) == [
        events.Entry(1, "progress", {"a": 1}),
        events.Entry(1, "", {"b": "ä"}),
        events.Entry(9, "end", {}),
    ]
