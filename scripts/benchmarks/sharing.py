"""What it costs to be one of many: a build beside a slow download, five hundred processes waiting for one build."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import fabricating, throttle, waiters
from benchmarks.creating import many_spec
from benchmarks.measuring import BenchError, Figure, Rounds, Spread, end_group, in_turn
from benchmarks.throttle import Throttle
from benchmarks.workspace import Workspace, say, settle
from envmgr import fsio, ready
from envmgr.fsio import Step
from envmgr.names import EnvName
from envmgr.store import locks, publication
from envmgr.store.layout import Layout

_WAITERS = 500
_PATIENCE_S = 60.0
_BEGIN_S = 100.0
"""How long the waiters may take until all of them wait."""
_STEADY_S = 1.5
"""After this long every waiter has reached its longest pause between two looks."""


def slow_download(work: Workspace, *, is_quick: bool) -> list[Figure]:
    """Compare a warm create alone with the same while another create of the same store downloads slowly."""
    root = work.new_store("slow", work.fabricated.as_uri())
    spec = many_spec(work)
    work.envmgr(root, "create", spec)
    work.envmgr(root, "remove", spec)
    gate = Throttle("bulky-")
    bulky = iter(range(fabricating.BULKY))

    def alone() -> float:
        settle()
        took_s = work.envmgr(root, "create", spec)
        work.envmgr(root, "remove", spec)
        return took_s

    def beside() -> float:
        package = f"bulky-{next(bulky)}"
        other = work.spec(package, f"channels:\n  - {url}\n  - nodefaults\ndependencies:\n  - {package}\n")
        with _downloading(work, root, other, gate):
            return alone()

    with throttle.served(work.fabricated, gate) as url:
        say("300 packages: create alone and beside a slow download in turn")
        rounds = Rounds(3 if is_quick else fabricating.BULKY, 3, 30)
        besides, alones = in_turn(rounds, [beside, alone])
    return [
        Figure("slow", "warm create beside a slow download: 300 packages", besides, "ratio", alones, "alone", goal=1.5)
    ]


@contextlib.contextmanager
def _downloading(work: Workspace, root: Path, spec: Path, gate: Throttle) -> Iterator[None]:
    """Let another create download for the length of the block; then let it come to its end."""
    gate.close()
    with work.log.open("wb") as log:
        other = subprocess.Popen(
            [work.bin / "envmgr", "create", spec],
            env=work.environ(root),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
    try:
        if not gate.is_dripping.wait(_PATIENCE_S):
            raise BenchError(f"the other create downloads nothing: {work.log.read_text()[-1000:]}")
        yield
        if other.poll() is not None or gate.is_released.is_set():
            raise BenchError("the slow download was over too early")
        gate.is_released.set()
        if other.wait(_PATIENCE_S) != 0:
            raise BenchError("the create that downloaded slowly failed")
    finally:
        gate.is_released.set()
        if other.poll() is None:
            end_group(other.pid)
            other.wait()


def waiting(work: Workspace, *, is_quick: bool) -> list[Figure]:
    """Time from a publication to the last return of the processes that waited for it."""
    root = work.new_store("waiting", work.fabricated.as_uri())
    spec = work.spec("small", "name: small\ndependencies:\n  - small\n")
    work.envmgr(root, "create", spec)
    name = EnvName(work.output([work.bin / "envmgr", "name", spec]).strip())
    say(f"{_WAITERS} processes wait for one build")
    last, half, begun = [], [], []
    for _ in Rounds(1 if is_quick else 5, 1, 40):
        returns, begun_s = _publish_to_waiters(work, root, spec, name)
        last.append(returns[-1])
        half.append(returns[len(returns) // 2])
        begun.append(begun_s)
    what = f"{_WAITERS} waiting processes: from publication to the last return"
    facts = {"processes": _WAITERS, "median_return_s": half, "until_all_wait_s": begun}
    return [Figure("waiting", what, Spread(tuple(last)), goal=0.5, facts=facts)]


def _publish_to_waiters(work: Workspace, root: Path, spec: Path, name: EnvName) -> tuple[list[float], float]:
    """Return when each of the waiters had its environment after the publication, sorted; and how long they took to
    begin to wait.

    This process stands for the builder: it holds the build lock, and publishes the build, which was made before.
    """
    layout = Layout(root)
    found = ready.resolve(str(root), name)
    if found is None:
        raise BenchError(f"{name} is not there")
    published_at: list[float] = []

    def observe(step: Step, point: str) -> None:
        if step is Step.PUBLISH and point == "changed":
            published_at.append(time.monotonic())

    with contextlib.ExitStack() as stack:
        if not stack.enter_context(locks.try_lock(layout, name)):
            raise BenchError(f"{name} is locked")
        publication.unpublish(layout, name, found[1])
        for key in layout.by_text.iterdir():
            key.unlink()  # to the waiters, the document is new
        began = time.monotonic()
        pipe = stack.enter_context(_waiters(work, root, spec))
        begun = pipe.take(waiters.WAITING, _WAITERS, _BEGIN_S)
        time.sleep(_STEADY_S)
        fsio.observer = observe
        try:
            publication.publish(layout, name, found[1])
        finally:
            fsio.observer = None
        returned = pipe.take(waiters.DONE, _WAITERS, _PATIENCE_S)
        return sorted(at - published_at[0] for at in returned), begun[-1] - began


class _Pipe:
    """What the waiters write."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def take(self, kind: bytes, count: int, timeout_s: float) -> list[float]:
        """Wait for `count` records of one kind; return their times."""
        times: list[float] = []
        until = time.monotonic() + timeout_s
        while len(times) < count:
            if not select.select([self._fd], [], [], max(0.0, until - time.monotonic()))[0]:
                raise BenchError(f"only {len(times)} of {count} processes answered")
            # Records are written whole, being shorter than PIPE_BUF; so they are read whole.
            block = os.read(self._fd, waiters.RECORD.size)
            if len(block) < waiters.RECORD.size:
                raise BenchError(f"the processes ended after {len(times)} of {count} answers")
            found, at = waiters.RECORD.unpack(block)
            if found != kind:
                raise BenchError(f"a process answered {found!r} instead of {kind!r}")
            times.append(at)
        return times


@contextlib.contextmanager
def _waiters(work: Workspace, root: Path, spec: Path) -> Iterator[_Pipe]:
    """Have `_WAITERS` processes ask for the environment; at the end of the block, all of them are gone."""
    reader, writer = os.pipe()
    stay, leave = os.pipe()
    with work.log.open("wb") as log:
        parent = subprocess.Popen(
            [*work.program("waiters", root, spec, str(_WAITERS)), str(writer), str(stay)],
            env=work.environ(root),
            stdin=subprocess.DEVNULL,
            stderr=log,
            pass_fds=(writer, stay),
            start_new_session=True,
        )
    os.close(writer)
    os.close(stay)
    leave_file = os.fdopen(leave, "wb")
    try:
        yield _Pipe(reader)
        leave_file.close()
        if parent.wait(_PATIENCE_S) != 0:
            raise BenchError(f"not all of the processes got the environment: {work.log.read_text()[-1000:]}")
    finally:
        end_group(parent.pid)
        parent.wait()
        leave_file.close()
        os.close(reader)
