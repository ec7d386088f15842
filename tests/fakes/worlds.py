"""A store with a manager over a fake backend, and the pieces that tests of store and manager are made of."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock  # noqa: F401 - 0.1 s, paid once here instead of in each forked process

from envmgr import fsio, settings, spec
from envmgr.coordination.alone import Alone
from envmgr.fsio import Step
from envmgr.manager.context import Context, SystemClock
from envmgr.manager.manager import Manager
from envmgr.model import Record, Spec
from envmgr.names import BuildId, EnvName, name_of_digest
from envmgr.ports import Clock, Coordinator
from envmgr.ready import Lease
from envmgr.store import opening, records, sweep
from envmgr.store.layout import Layout
from fakes.backend import FakeBackend

NOWHERE = Path("/nonexistent")
SUBDIR = "linux-64"


def digest_of(word: str) -> str:
    return hashlib.sha256(word.encode()).hexdigest()


def name_of(word: str) -> EnvName:
    return name_of_digest(digest_of(word))


def spec_of(*requirements: str, label: str = "demo") -> Spec:
    """Return the spec of a document with these conda requirements."""
    lines = "".join(f"  - {requirement}\n" for requirement in requirements)
    return spec.parse(f"name: {label}\ndependencies:\n{lines}", source="test")


def record_of(name: EnvName, build_id: BuildId, digest: str) -> Record:
    return Record(
        format=records.RECORD_FORMAT,
        name=name,
        build_id=build_id,
        digest=digest,
        lock_digest="0" * 64,
        machine_class=SUBDIR,
        label="demo",
        created_at=1.0,
        duration_s=2.0,
        phases_s={"link": 0.5},
        envmgr_version="0",
        host="here",
        packages=1,
        size_bytes=3,
        python_version=None,
    )


def begin(layout: Layout, word: str) -> Lease:
    """Begin a build with one small file in its prefix and a record."""
    lease = sweep.begin_build(layout, name_of(word), digest_of(word))
    Path(lease.prefix, "bin").mkdir(parents=True)
    Path(lease.prefix, "bin", "tool").write_text(lease.build_id, encoding="ascii")
    records.write_record(layout, record_of(lease.name, lease.build_id, digest_of(word)))
    return lease


@contextmanager
def observed(observer: Callable[[Step, str], None]) -> Iterator[None]:
    """Be told of every point of every durable step for the length of the block; in this process only."""
    before = fsio.observer
    fsio.observer = observer
    try:
        yield
    finally:
        fsio.observer = before


@dataclasses.dataclass(frozen=True)
class World:
    """A store and what drives it; `manager` and `reopened` make fresh objects over the same files."""

    layout: Layout
    orders: Path
    clock: Clock
    is_child: bool = False
    coordinator: Coordinator = dataclasses.field(default_factory=Alone)

    @property
    def root(self) -> Path:
        return self.layout.root

    def backend(self) -> FakeBackend:
        return FakeBackend(self.orders, is_child=self.is_child)

    def manager(self, environ: dict[str, str] | None = None, mode: settings.Mode = "personal") -> Manager:
        values = {"ENVMGR_MIN_FREE_BYTES": "0", "ENVMGR_MIN_FREE_INODES": "0", **(environ or {})}
        found = settings.load(root=self.root, mode=mode, environ=values, home=NOWHERE, etc=NOWHERE, subdir=SUBDIR)
        return Manager(Context(self.layout, found, self.backend(), self.clock, "here", self.coordinator))

    def builds_begun(self) -> list[str]:
        """Return the build ids that the backend was asked for, over all processes, in order."""
        return self.backend().begun()


def make_world(directory: Path, *, clock: Clock | None = None, is_child: bool = False) -> World:
    """Make a store in `directory` with a backend that takes its orders from files beside it."""
    orders = directory / "orders"
    orders.mkdir(exist_ok=True)
    layout = opening.open_for_writing(directory / "store")
    return World(layout, orders, clock or SystemClock(), is_child)


def open_descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))
