"""The history's checker sees each thing that must not happen, and nothing else."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hosts.history import Event, Span, Writer, overlapping, read, violations

NAME, CLASS, STORE, BUILD = "env-1", "linux-64", "store-1", "b-1"


class Story:
    """Events at times that are told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._numbers = itertools.count(1)

    def moment(self, at: float, what: str, host: str = "one", **facts: object) -> Story:
        self.events.append(Event(at, host, f"{host}/1", what, facts=facts))
        return self

    def span(
        self, what: str, begin: float, end: float | None, host: str = "one", more: dict[str, object] | None = None,
        **facts: object,
    ) -> Story:  # fmt: skip
        number = next(self._numbers)
        self.events.append(Event(begin, host, f"{host}/1", what, "begin", number, facts))
        if end is not None:
            self.events.append(Event(end, host, f"{host}/1", what, "end", number, more or {}))
        return self

    def build(self, begin: float, end: float | None, host: str = "one", store: str = STORE, name: str = NAME) -> Story:
        return self.span("build", begin, end, host, store=store, name=name, build=BUILD)

    def publish(
        self, begin: float, end: float, host: str = "one", *, token: int | None = 1, is_shared: bool = True,
        lock_digest: str = "a", problems: tuple[str, ...] = (), may_differ: bool = False,
    ) -> Story:  # fmt: skip
        found = {"lock_digest": lock_digest, "machine_class": CLASS, "problems": problems}
        facts = {"store": STORE, "name": NAME, "build": BUILD, "is_shared": is_shared, "token": token}
        facts["may_differ"] = may_differ
        return self.span("publish", begin, end, host, found, **facts)

    def claimed(self, at: float, token: int, host: str = "one", key: str = f"solve/{NAME}/{CLASS}") -> Story:
        return self.moment(at, "claimed", host, key=key, token=token)

    def lockfile(
        self, at: float, token: int, zxid: int, digest: str = "a", generation: int = 1, created_at: float = 0.83
    ) -> Story:  # fmt: skip
        named = {"name": NAME, "machine_class": CLASS, "generation": generation, "digest": digest}
        return self.moment(at, "lockfile", "-", token=token, zxid=zxid, created_at=created_at, **named)

    @property
    def found(self) -> list[str]:
        return violations(sorted(self.events, key=lambda event: event.at))


BUILD_KEY = f"build/{STORE}/{NAME}"


def good() -> Story:
    """Two hosts with one shared store: the second solves and builds after the first one's death."""
    story = Story()
    story.claimed(0.1, 1).claimed(0.1, 2, key=BUILD_KEY).build(0.2, None)
    story.moment(0.5, "doomed", "-", run="one/1")
    story.claimed(0.7, 5, "two").claimed(0.7, 6, "two", BUILD_KEY).build(0.8, 0.9, "two")
    story.publish(0.91, 0.92, "two", token=6)
    story.lockfile(2.0, 5, 7).lockfile(3.0, 5, 7)
    story.span("lease", 1.0, 1.4, store=STORE, build=BUILD)
    story.span("delete", 1.5, 1.6, "two", store=STORE, build=BUILD)
    return story


def test_a_good_history() -> None:
    """Nothing is found where nothing is wrong: builders one after the other, a death, a second look at the tree."""
    assert good().found == []


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (lambda story: story.build(0.85, 0.95, "three"), "two builders at a time"),
        (lambda story: story.build(0.4, 0.45, "three"), "two builders at a time"),
        (lambda story: story.build(5.0, None, "two").build(6.0, None, "three"), "two builders at a time"),
        (lambda story: story.publish(5.0, 5.1, token=9, problems=("share/x is missing",)), "not whole"),
        (lambda story: story.publish(5.0, 5.1, token=None), "published without a claim"),
        (lambda story: story.publish(0.8, 0.81, token=2), "published after the claim went to two"),
        (lambda story: story.publish(0.8, 0.81, token=2, lock_digest="b"), "another lockfile than the cluster's"),
        (lambda story: story.lockfile(4.0, 4, 8, generation=2), "a claim that nobody got"),
        (lambda story: story.lockfile(4.0, 1, 8, generation=2), "after its claim went to two"),
        (lambda story: story.claimed(3.0, 9).lockfile(4.0, 9, 10), "was published 2 times"),
        (lambda story: story.claimed(3.0, 9).lockfile(4.0, 9, 10, "b"), "one generation, several lockfiles"),
        (lambda story: story.span("lease", 1.55, None, store=STORE, build=BUILD), "deleted under a lease"),
        (lambda story: story.span("delete", 1.1, 1.2, store=STORE, build=BUILD), "deleted under a lease"),
        (lambda story: story.span("delete", 1.3, None, store=STORE, build=BUILD), "deleted under a lease"),
    ],
)  # fmt: skip
def test_each_planted_bug_is_found(plant: Callable[[Story], Story], words: str) -> None:
    """A good history with one bad thing is not good any more, and what is said names it."""
    assert any(words in said for said in plant(good()).found)


@pytest.mark.parametrize(
    "add",
    [
        lambda story: story.build(0.85, 0.95, "three", store="store-2"),
        lambda story: story.build(0.85, 0.95, "three", name="env-2"),
        lambda story: story.build(0.9, 0.95, "three"),  # begins at the very moment when the other has ended
        lambda story: story.publish(5.0, 5.1, token=None, is_shared=False),
        lambda story: story.publish(5.0, 5.1, token=None, is_shared=False, lock_digest="b", may_differ=True),
        lambda story: story.claimed(3.0, 9).lockfile(4.0, 9, 10, "b", generation=2).publish(5.0, 5.1, lock_digest="b"),
        lambda story: story.lockfile(4.0, 1, 8, generation=2, created_at=0.6),  # the other one waited for the claim
        lambda story: story.span("lease", 1.55, None, store=STORE, build="b-2"),
    ],
)
def test_what_only_looks_bad(add: Callable[[Story], Story]) -> None:
    """Other stores, names and builds do not exclude each other; a host alone needs no claim; a relock is allowed."""
    story = add(good())
    assert [said for said in story.found if "after the claim" not in said] == []


def test_a_death_ends_what_was_begun_before_it() -> None:
    """What a killed process had begun lasted until it was about to be killed, and counts until then."""
    story = Story().build(1.0, None).moment(2.0, "doomed", "-", run="one/1")
    assert story.build(2.5, 3.0, "two").found == []
    assert len(story.build(1.9, 1.95, "three").found) == 1


times = st.integers(0, 20)
spans = st.builds(
    lambda begin, length: Span("build", "one", begin, begin + length, True, {}),
    times, st.one_of(st.integers(1, 5), st.just(math.inf)),
)  # fmt: skip


@given(st.lists(spans, max_size=8))
def test_overlaps_are_found_exactly(some: list[Span]) -> None:
    """Something is found if and only if two of the spans overlap, and what is found does."""
    found = overlapping(some)
    assert all(one.begin < other.end and other.begin < one.end for one, other in found)
    are_there = any(one.begin < other.end and other.begin < one.end for one, other in itertools.combinations(some, 2))
    assert bool(found) == are_there


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Events of several processes are read back in the order of time, spans with the facts of both ends."""
    one, two = (Writer(tmp_path / host, host, f"{host}/1") for host in ("one", "two"))
    with one.span("build", store=STORE, name=NAME, build=BUILD) as more:
        two.moment("claimed", key=BUILD_KEY, token=3)
        two.begin("build", store=STORE, name=NAME, build=BUILD)
        more["result"] = "good"
    events = read([tmp_path / "one", tmp_path / "two"])
    assert [(event.host, event.what, event.phase) for event in events] == [
        ("one", "build", "begin"), ("two", "claimed", "moment"), ("two", "build", "begin"), ("one", "build", "end"),
    ]  # fmt: skip
    assert events[-1].facts == {"result": "good"}
    (said,) = violations(events)
    assert "result good" in said
