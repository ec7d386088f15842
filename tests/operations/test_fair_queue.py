"""The fair queue: turns between callers, order within one, and what several asked for counts for each."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from envmgr.operations.queue import FairQueue

FIXED = settings(derandomize=True, max_examples=200, deadline=None)
ASKED = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 12)), max_size=30)


def queue_of(asked: list[tuple[str, int]]) -> FairQueue[int]:
    queue: FairQueue[int] = FairQueue()
    for caller, item in asked:
        queue.add(caller, item)
    return queue


def drained(queue: FairQueue[int]) -> list[int]:
    found = []
    while (item := queue.pop()) is not None:
        found.append(item)
    return found


def test_turns() -> None:
    """Callers take turns in the order in which they came; a line that is empty loses its turn."""
    asked = [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5), ("c", 6)]
    assert drained(queue_of(asked)) == [1, 4, 5, 2, 6, 3]


def test_what_another_asked_for_first() -> None:
    """Who asks for what stands at the end of another's long line has it at his own turn."""
    asked = [("a", number) for number in range(1, 10)]
    assert drained(queue_of([*asked, ("b", 9)])) == [1, 9, 2, 3, 4, 5, 6, 7, 8]


@FIXED
@given(ASKED, st.lists(st.integers(0, 12), max_size=5))
def test_what_is_foretold_comes_true(asked: list[tuple[str, int]], discarded: list[int]) -> None:
    """Each item comes once, in the foretold order; what was discarded does not; counts are exact at each moment."""
    queue = queue_of(asked)
    for item in discarded:
        queue.discard(item)
    foretold = list(queue.in_order())
    left = {item for _, item in asked} - set(discarded)
    assert sorted(foretold) == sorted(left)
    for item in foretold:
        assert len(queue) == len(left)
        for caller in "abcd":
            assert queue.waiting(caller) == len({it for who, it in asked if who == caller} & left)
        assert item in queue
        assert queue.pop() == item
        left.remove(item)
    assert queue.pop() is None
    assert len(queue) == 0


@FIXED
@given(ASKED)
def test_nobody_waits_long_for_others(asked: list[tuple[str, int]]) -> None:
    """Before a caller's n-th item come at most n of each other caller."""
    queue = queue_of([(caller, 100 * ord(caller) + item) for caller, item in asked])  # nothing is shared
    taken = dict.fromkeys("abcd", 0)
    for item in drained(queue):
        caller = chr(item // 100)
        assert all(count <= taken[caller] + 1 for count in taken.values())
        taken[caller] += 1
