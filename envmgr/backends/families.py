"""Finds and ends every process that a builder has started, and the builder.

A builder's family is found in three ways, because each misses somebody: its descendants (it is a subreaper, so whoever
loses its own parent becomes its child; but only while it lives), the processes of its session (unless they began one of
their own), and those with the build's mark in their environment (unless they cleared it). Not found is a process that
did all three *and* whose parent is gone *and* that outlived the builder. Who outlives this very process is found by
the next sweep (`envmgr.store.orphans`).

The builder itself is not reaped before all others are gone: until then the kernel gives its number to nobody else, and
the number of its session stays unmistakable. It is stopped first, so that it neither starts nor reaps anything while
the others die.

One look that finds nobody proves nothing: /proc is read one process after the other, and one that forks and ends
meanwhile is gone when it is read, while its child was not yet there when the list was made. But above any such child
there is always one whose parent is the builder; when that one ends it stays as a zombie, because the builder is
stopped, and only then its children become the builder's. So two looks that find the same dead and nobody alive prove
that nobody was missed.

Source: proc(5), pidfd_open(2), PR_SET_CHILD_SUBREAPER in prctl(2), waitid(2) with WNOWAIT.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from envmgr.store import orphans

MARK = orphans.MARK

_FIRST_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.05
_SAY_AFTER_S = 5.0
_STOPPED = frozenset({b"T", b"t"})
_DEAD = frozenset({b"Z", b"X", b"x"})


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look at /proc found: the family without the builder, and whether that stands still or has ended."""

    living: dict[int, orphans.Process]
    dead: frozenset[int]
    is_builder_still: bool
    is_builder_dead: bool

    def confirms(self, before: _Look | None) -> bool:
        """Tell whether nobody is left; see the module."""
        if before is None or self.living or before.living or not before.is_builder_still:
            return False
        return (self.is_builder_dead, self.dead) == (before.is_builder_dead, before.dead)


def end(builder: int, mark: str, say: Callable[[str], None], *, variable: str = MARK) -> None:
    """Kill the family of the child `builder` and the builder, and return when all are gone.

    `mark` is what the environment variable `variable` of each process of the family says.

    The builder stays a zombie for the caller to reap. There is no time limit: while one of them lives (in a system call
    that does not end, say), the build's directory is not free. `say` gets one line if that takes long.
    """
    _end_all_others(builder, (variable, mark), say)
    _send(builder, signal.SIGKILL)
    while not has_exited(builder):
        time.sleep(_FIRST_PAUSE_S)


def has_exited(child: int) -> bool:
    """Tell whether our own child has ended, without reaping it."""
    try:
        return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True  # somebody else in this process has reaped it


def _end_all_others(builder: int, mark: tuple[str, str], say: Callable[[str], None]) -> None:
    pause_s, began_at, is_said = _FIRST_PAUSE_S, time.monotonic(), False
    before = None
    while True:
        _send(builder, signal.SIGSTOP)
        look = _look(builder, mark)
        if look.confirms(before):
            return
        for member in look.living.values():
            orphans.kill(member)
        if not is_said and time.monotonic() - began_at > _SAY_AFTER_S:
            is_said = True
            say(f"waiting for processes that do not die: {', '.join(map(str, sorted(look.living or {builder})))}")
        if look.living or not look.is_builder_still:
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
        before = look


def _look(builder: int, mark: tuple[str, str]) -> _Look:
    # The builder first: what it did until it stood still is there to be seen afterwards.
    states = _states(builder)
    family = _family(builder, mark)
    return _Look(
        living={pid: process for pid, process in family.items() if not process.is_dead},
        dead=frozenset(pid for pid, process in family.items() if process.is_dead),
        is_builder_still=states <= _STOPPED | _DEAD,
        is_builder_dead=states <= _DEAD,
    )


def _states(pid: int) -> set[bytes]:
    """Return the states of a process's threads, each of which stops, and ends, in its own time."""
    found: set[bytes] = set()
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/stat", "rb") as file:
                found.add(file.read().rpartition(b")")[2].split()[0])
        except OSError:
            continue
    return found


def _family(builder: int, mark: tuple[str, str]) -> dict[int, orphans.Process]:
    processes = {process.pid: process for process in orphans.processes()}
    children: dict[int, list[int]] = {}
    for process in processes.values():
        children.setdefault(process.parent, []).append(process.pid)
    found = {process.pid for process in processes.values() if process.session == builder}
    todo = [builder]
    while todo:
        born = children.get(todo.pop(), [])
        todo += born
        found.update(born)
    variable, value = mark
    found.update(pid for pid in processes if pid not in found and orphans.has_mark(pid, value, variable))
    found -= {builder, os.getpid()}
    return {pid: processes[pid] for pid in found if pid in processes}


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
