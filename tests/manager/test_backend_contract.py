"""What every backend promises (`envmgr.ports.Backend`); the same suite for the fake and for the real one.

A backend joins by a `Harness` in `HARNESSES`: how to make it, what it can install, and how to make it take long.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from fakes.backend import FakeBackend
from fakes.processes import Forked, no_process_left
from fakes.worlds import SUBDIR, open_descriptors, spec_of

from envmgr import activation, lockfile, ready
from envmgr.errors import Cancelled, TimedOut
from envmgr.events import Event
from envmgr.names import BuildId
from envmgr.ports import Backend
from envmgr.store import opening, sweep, usage
from envmgr.store.layout import Layout
from envmgr.wire.pipe import BuildRequest, BuildResult, Channel


@dataclass(frozen=True)
class Harness:
    """One backend, ready to be asked.

    `conda` can be installed from `channels`; `delay` makes the next builds take until they are stopped.
    """

    backend: Backend
    conda: tuple[str, ...]
    channels: tuple[Channel, ...]
    delay: Callable[[], None]


def fake(directory: Path, *, is_child: bool) -> Harness:
    return Harness(
        backend=FakeBackend(directory, is_child=is_child),
        conda=("numpy", "zlib"),
        channels=(Channel("demo", ("https://channel.invalid/demo",)),),
        delay=lambda: os.mkfifo(directory / "hang"),
    )


HARNESSES: dict[str, Callable[[Path], Harness]] = {
    "fake": lambda directory: fake(directory, is_child=False),
    "fake in a child": lambda directory: fake(directory, is_child=True),
}


@pytest.fixture(params=HARNESSES)
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Harness:
    (tmp_path / "harness").mkdir()
    return HARNESSES[request.param](tmp_path / "harness")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return opening.open_for_writing(tmp_path / "store")


@dataclass
class Deadline:
    """Counts how often it is asked, and says stop after as many times."""

    error: Exception | None = None
    asked: int = 0

    def check(self) -> None:
        self.asked += 1
        if self.error is not None:
            raise self.error

    def remaining_s(self) -> float | None:
        return None if self.error is None else 0.0


@dataclass
class Call:
    """One build, and what was heard of it."""

    request: BuildRequest
    lease: ready.Lease
    events: list[Event] = field(default_factory=list)
    locked: list[str] = field(default_factory=list)

    def run(self, harness: Harness, deadline: Deadline | None = None) -> BuildResult:
        return harness.backend.build(
            self.request,
            lease_fd=self.lease.fileno(),
            deadline=deadline or Deadline(),
            report=self.events.append,
            on_locked=self.locked.append,
        )

    @property
    def lockfile(self) -> str:
        return Path(self.request.build_dir, "conda-lock.yml").read_text(encoding="utf-8")


@contextlib.contextmanager
def call(layout: Layout, harness: Harness, lock_text: str | None = None) -> Iterator[Call]:
    """Begin a build as the manager does, and see that afterwards no process and no descriptor is left."""
    spec = spec_of(*harness.conda)
    lease = sweep.begin_build(layout, spec.name, spec.digest)
    before = open_descriptors()
    request = BuildRequest(
        action="build", name=spec.name, digest=spec.digest, subdir=SUBDIR, conda=harness.conda, pip=(),
        channels=harness.channels, channel_priority="strict", variables=(("DEMO", "a b"),), lockfile=lock_text,
        build_dir=lease.build_dir, prefix=lease.prefix, package_cache=str(layout.packages),
        uv_cache=str(layout.uv_cache), machine_class=SUBDIR, virtual_package_overrides=(("__cuda", ""),),
    )  # fmt: skip
    with no_process_left():
        yield Call(request, lease)
    path = layout.build(BuildId(lease.build_id)).lease
    assert [user.pid for user in usage.lock_holders([path])[path]] == [os.getpid()]
    assert open_descriptors() == before
    lease.close()


def test_a_build_is_whole_on_return(layout: Layout, harness: Harness) -> None:
    """Prefix, lockfile and activation stand where they belong, are read back, and agree with the result."""
    with call(layout, harness) as asked:
        result = asked.run(harness)
        prefix = Path(asked.request.prefix)
        assert (prefix / "conda-meta").is_dir()
        found = lockfile.parse(asked.lockfile, SUBDIR)
        assert found.digest == result.lock_digest
        assert len(found.packages) == result.packages
        assert {package.name for package in found.packages} >= set(harness.conda)
        changes = activation.load(Path(asked.request.build_dir, activation.FILE_NAME))
        assert activation.apply(changes, {})["DEMO"] == "a b"
        assert str(prefix / "bin") in activation.apply(changes, {})["PATH"].split(":")
        assert result.size_bytes > 0


def test_the_lockfile_is_told_once(layout: Layout, harness: Harness) -> None:
    """The complete lockfile is told exactly once, and is what stands in the build's directory."""
    with call(layout, harness) as asked:
        asked.run(harness)
        assert asked.locked == [asked.lockfile]


def test_a_given_lockfile_is_installed_exactly(layout: Layout, harness: Harness) -> None:
    """What is built from a lockfile has the same digest, and so has a second build without one."""
    with call(layout, harness) as first:
        expected = first.run(harness).lock_digest
    with call(layout, harness, first.lockfile) as second:
        assert second.run(harness).lock_digest == expected
        assert lockfile.parse(second.lockfile, SUBDIR).digest == expected


def test_lock_finds_the_lockfile_only(layout: Layout, harness: Harness) -> None:
    """The action ``lock`` tells the same lockfile that a build would install."""
    with call(layout, harness) as first:
        digest = first.run(harness).lock_digest
    with call(layout, harness) as asked:
        asked.request = replace(asked.request, action="lock")
        assert asked.run(harness).lock_digest == digest
        assert [lockfile.parse(text, SUBDIR).digest for text in asked.locked] == [digest]


def test_events_come_in_pairs(layout: Layout, harness: Harness) -> None:
    """Every phase that begins ends, and there is at least one."""
    with call(layout, harness) as asked:
        asked.run(harness)
        begun = [event.phase for event in asked.events if event.kind == "begin"]
        ended = [event.phase for event in asked.events if event.kind == "end"]
        assert begun
        assert sorted(begun) == sorted(ended)


@pytest.mark.parametrize("error", [TimedOut("time is up"), Cancelled("no more")], ids=["time", "wish"])
def test_a_build_ends_when_its_caller_says_so(layout: Layout, harness: Harness, error: Exception) -> None:
    """The deadline's error ends the build soon, even while it stands still; no process of it is left."""
    harness.delay()
    with call(layout, harness) as asked, pytest.raises(type(error)):
        asked.run(harness, Deadline(error))


def test_the_build_is_leased_while_it_is_made(layout: Layout, harness: Harness) -> None:
    """At every event of a build, no other process can take its directory."""
    taken = []

    with call(layout, harness) as asked:
        build = BuildId(asked.lease.build_id)

        def report(_event: Event) -> None:
            taken.append(Forked(lambda: sweep.discard(layout, build)).result())

        harness.backend.build(
            asked.request,
            lease_fd=asked.lease.fileno(),
            deadline=Deadline(),
            report=report,
            on_locked=asked.locked.append,
        )
    assert taken
    assert not any(taken)
