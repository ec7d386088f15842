"""A journal is bounded, keeps what matters longest, and says exactly what it no longer has."""

from __future__ import annotations

from fakes.clock import FakeClock
from hypothesis import given, settings
from hypothesis import strategies as st

from envmgr.events import Event
from envmgr.operations.journal import MAX_ENTRIES, MAX_MESSAGE_CHARS, PROGRESS_PAUSE_S, Journal, JournalEntry

FIXED = settings(derandomize=True, max_examples=100, deadline=None)


def numbers(entries: tuple[JournalEntry, ...]) -> list[int]:
    """Return every number that the entries stand for, those of lost ones included."""
    found: list[int] = []
    for entry in entries:
        count = entry.data["count"] if entry.event == "lost" else 1
        assert isinstance(count, int)
        found += range(entry.id - count + 1, entry.id + 1)
    return found


def filled(clock: FakeClock, phases: int, per_phase: int) -> Journal:
    """Return the journal of a build with this many phases, each with so many lines and so much progress."""
    journal = Journal(clock.monotonic)
    journal.add("state", {"state": "running"})
    for _ in range(phases):
        journal.report(Event("begin", "link"))
        for done in range(per_phase):
            clock.now += PROGRESS_PAUSE_S
            journal.report(Event("progress", "link", done=done))
            journal.report(Event("log", "link", str(done)))
        journal.report(Event("end", "link"))
    journal.add("end", {})
    return journal


def test_a_message_is_not_kept_at_any_length() -> None:
    """Of a line that somebody's script made very long, the beginning is kept."""
    journal = Journal(FakeClock().monotonic)
    for length in (MAX_MESSAGE_CHARS, 1 << 20):
        journal.report(Event("log", "link", "x" * length))
    whole, cut = (entry.data["message"] for entry in journal.since(0))
    assert (whole, cut) == ("x" * MAX_MESSAGE_CHARS, "x" * MAX_MESSAGE_CHARS + "…")


def test_progress_comes_in_moderation() -> None:
    """Of progress that comes faster than eyes can follow, what has no number is no loss; each phase has its own."""
    clock = FakeClock()
    journal = Journal(clock.monotonic)
    taken = [journal.report(Event("progress", "fetch", done=number)) for number in range(100)]
    assert taken == [True] + [False] * 99
    assert journal.report(Event("progress", "link"))
    clock.now += PROGRESS_PAUSE_S
    assert journal.report(Event("progress", "fetch", done=100))
    assert numbers(journal.since(0)) == [1, 2, 3]
    assert all(entry.event == "progress" for entry in journal.since(0))


def test_a_big_build_stays_whole() -> None:
    """Of more than the limit, progress goes first and lines next: all begins, ends, states and the end are there."""
    journal = filled(FakeClock(), phases=10, per_phase=1000)
    entries = [entry for entry in journal.since(0) if entry.event != "lost"]
    assert len(entries) <= MAX_ENTRIES
    kinds = [entry.data.get("kind") for entry in entries]
    assert (kinds.count("begin"), kinds.count("end")) == (10, 10)
    assert [entry.event for entry in (entries[0], entries[-1])] == ["state", "end"]
    assert entries[-3].data["message"] == "999"


def test_too_much_of_what_matters_is_bounded_too() -> None:
    """A flood of warnings does not grow for ever; what stays of it is the newest."""
    journal = Journal(FakeClock().monotonic)
    journal.add("state", {"state": "running"})
    for number in range(2 * MAX_ENTRIES):
        journal.report(Event("warning", "link", str(number)))
    entries = journal.since(0)
    assert len(entries) <= MAX_ENTRIES + 1
    assert [entry.event for entry in entries[:3]] == ["state", "lost", "progress"]
    assert entries[-1].id == 2 * MAX_ENTRIES + 1


@FIXED
@given(st.integers(1, 3), st.integers(0, 900), st.integers(-1, 6000), st.booleans())
def test_what_is_lost_is_told_exactly(phases: int, per_phase: int, after: int, is_trimmed: bool) -> None:
    """From wherever a reader goes on, each number comes once and in order, itself or within a count of lost ones."""
    journal = filled(FakeClock(), phases, per_phase)
    if is_trimmed:
        journal.trim()
    last = 2 + phases * (2 + 2 * per_phase)
    entries = journal.since(after)
    assert numbers(entries) == list(range(max(after, 0) + 1, last + 1))
    # Whoever resumes behind any of them gets exactly the rest.
    for entry in entries[:: max(1, len(entries) // 5)]:
        assert numbers(journal.since(entry.id)) == list(range(entry.id + 1, last + 1))


def test_an_old_journal_is_small() -> None:
    """A while after the end only states, warnings and the end are kept."""
    journal = filled(FakeClock(), phases=3, per_phase=50)
    journal.trim()
    assert [entry.event for entry in journal.since(0)] == ["state", "lost", "end"]
