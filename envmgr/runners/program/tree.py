"""The processes below this one: what they use of memory together, and their end.

For a process that is a subreaper (prctl(2)) and has no other children: whoever loses its parent below it becomes its
child. So it has no child left exactly when nobody of the tree is left, and the kernel tells that (ECHILD).

What memory counts: anonymous and shared pages, also swapped ones, each shared page in equal parts for those who share
it (PSS), so that forked workers do not count what they have in common twice. The kernel counts that page by page, which
takes long; a process never has less resident than its part, so only where that sum is over the limit it is asked for.

Not promised: that a process which forks faster than /proc can be read ends (who waits for `end_all` gives up), nor that
memory in files of a memory file system counts while nobody has them mapped.

Source: proc(5), `proc_pid_smaps(5)`, prctl(2), wait(2).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection

from envmgr.store import orphans

_FIRST_PAUSE_S = 0.001
_LONGEST_PAUSE_S = 0.05
_QUICK = frozenset({b"RssAnon:", b"RssShmem:", b"VmSwap:"})
_EXACT = frozenset({b"Pss_Anon:", b"Pss_Shmem:", b"SwapPss:"})


def below(root: int) -> list[int]:
    """Return the processes that `root` and its descendants have started, as far as one look shows."""
    if not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
        return [process.pid for process in _descendants(root)]  # a kernel without CONFIG_PROC_CHILDREN
    found: list[int] = []
    todo = [root]
    while todo:
        born = _children(todo.pop())
        found += born
        todo += born
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
            found += map(int, file.read().split())
    return found


def used_bytes(pids: list[int], limit_bytes: int) -> int:
    """Return what processes use of memory together: exactly if it is more than `limit_bytes`, else no less."""
    quick = sum(_sum(f"/proc/{pid}/status", _QUICK) for pid in pids)
    if quick <= limit_bytes:
        return quick
    return sum(_exactly(pid) for pid in pids)


def _exactly(pid: int) -> int:
    # Not ours to look at so closely (a program of another user): then what is resident counts.
    return _sum(f"/proc/{pid}/smaps_rollup", _EXACT) or _sum(f"/proc/{pid}/status", _QUICK)


def _sum(path: str, keys: frozenset[bytes]) -> int:
    try:
        with open(path, "rb") as file:
            lines = [line.split() for line in file]
    except OSError:
        return 0
    return sum(int(words[1]) for words in lines if len(words) > 1 and words[0] in keys) << 10


def reap(on_end: Callable[[int, int], None]) -> bool:
    """Take note of every child that has ended (`on_end` gets its pid and wait status); tell whether any is left."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if not pid:
            return True
        on_end(pid, status)


def end_all(on_end: Callable[[int, int], None], *, patience_s: float, spared: Collection[int] = ()) -> tuple[int, ...]:
    """Kill all that is below this process and wait until they are gone; return who did not go within `patience_s`.

    Not the `spared` and what is below them: children that this process had before it became this program.
    """
    until = time.monotonic() + patience_s
    pause_s = _FIRST_PAUSE_S
    while reap(on_end):
        family = _descendants(os.getpid(), spared)
        if spared and not family:
            return ()
        for process in family:
            with contextlib.suppress(PermissionError):  # of another user: it goes by itself, or is told of
                orphans.kill(process)
        if time.monotonic() > until:
            return tuple(process.pid for process in family)
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
    return ()


def _descendants(root: int, spared: Collection[int] = ()) -> list[orphans.Process]:
    children: dict[int, list[orphans.Process]] = {}
    for process in orphans.processes():
        if process.pid not in spared:
            children.setdefault(process.parent, []).append(process)
    found: list[orphans.Process] = []
    todo = [root]
    while todo:
        born = children.get(todo.pop(), [])
        found += [process for process in born if not process.is_dead]
        todo += [process.pid for process in born]
    return found
