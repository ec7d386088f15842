"""Any order of creating, using, pinning, removing and collecting: what is used, pinned or young never goes.

The model knows for each environment when it was last seen in use, its size, its alias, and the descriptors and
processes that hold its lease. It says what a collection must remove; a dry run must say the same before. In some
collections leases are taken and given back while it runs, at drawn points; of those only the promise is checked.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from fakes.clock import FakeClock
from fakes.worlds import make_world, observed
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from stores import create, is_whole, names_in, published, specs

from envmgr import ready
from envmgr.errors import EnvironmentInUse
from envmgr.fsio import Step
from envmgr.manager.collection import Limits
from envmgr.names import EnvName
from envmgr.store import sweep

SPECS = specs(4)
UNIT_BYTES = 1_000_000
UNITS = {spec.name: number + 1 for number, spec in enumerate(SPECS)}
WHICH = st.integers(0, len(SPECS) - 1)
HOUR_S = 3600.0


class Holder:
    """A lease, held by a descriptor of ours or by a child that has inherited it."""

    def __init__(self, lease: ready.Lease, *, is_child: bool) -> None:
        self.name, self.prefix = lease.name, Path(lease.prefix)
        self.lease = lease
        self.child: subprocess.Popen[bytes] | None = None
        if is_child:
            self.child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[lease.fileno()])
            lease.close()

    def drop(self) -> None:
        self.lease.close()
        if self.child is not None:
            self.child.communicate()


class Store(RuleBasedStateMachine):
    """`used_at` has what is published; a pin and an alias outlive their environment."""

    def __init__(self) -> None:
        super().__init__()
        self.used_at: dict[EnvName, float] = {}
        self.pinned: set[EnvName] = set()
        self.aliased: set[EnvName] = set()
        self.holders: list[Holder] = []
        self.directory = Path(tempfile.mkdtemp(prefix="envmgr-collection-"))
        self.clock = FakeClock()
        self.world = make_world(self.directory, clock=self.clock)

    def teardown(self) -> None:
        while self.holders:
            self.holders.pop().drop()
        self.world.manager().collect()
        assert set(sweep.all_builds(self.world.layout)) == {
            info.build_id for info in self.world.manager().list() if info.build_id is not None
        }
        shutil.rmtree(self.directory)

    def held(self) -> set[EnvName]:
        return {holder.name for holder in self.holders}

    def sampled(self) -> None:
        """Know what the next sample sees: whoever holds the lease of the build that is published."""
        for holder in filter(self.is_of_published, self.holders):
            self.used_at[holder.name] = self.clock.now

    # -------------------------------------------------------------------------------------------------------- rules

    @rule(which=WHICH)
    def create(self, which: int) -> None:
        name = create(self.world, SPECS[which], size_bytes=UNITS[SPECS[which].name] * UNIT_BYTES)
        self.used_at[name] = self.clock.now

    @rule(which=WHICH, is_child=st.booleans())
    def use(self, which: int, is_child: bool) -> None:
        lease = ready.acquire(str(self.world.root), SPECS[which].name)
        assert (lease is not None) == (SPECS[which].name in self.used_at)
        if lease is not None:
            self.holders.append(Holder(lease, is_child=is_child))

    @precondition(lambda self: self.holders)
    @rule(which=st.integers(0, 100))
    def end_use(self, which: int) -> None:
        self.holders.pop(which % len(self.holders)).drop()

    @rule(hours=st.sampled_from([0.1, 1, 5, 30]))
    def wait(self, hours: float) -> None:
        self.clock.now += hours * HOUR_S

    @rule()
    def sample(self) -> None:
        self.sampled()
        self.world.manager().sample_use()

    @precondition(lambda self: self.used_at)
    @rule(which=WHICH, is_pinned=st.booleans())
    def pin(self, which: int, is_pinned: bool) -> None:
        name = SPECS[which].name
        if name in self.used_at:
            self.world.manager().pin(name, is_pinned=is_pinned)
            (self.pinned.add if is_pinned else self.pinned.discard)(name)

    @precondition(lambda self: self.used_at)
    @rule(which=WHICH)
    def alias(self, which: int) -> None:
        name = SPECS[which].name
        if name in self.used_at:
            create(self.world, SPECS[which], alias=f"alias{which}")
            self.used_at[name] = self.clock.now
            self.aliased.add(name)

    @rule(which=WHICH, when_free=st.booleans())
    def remove(self, which: int, when_free: bool) -> None:
        name = SPECS[which].name
        if name not in self.used_at:
            return
        try:
            self.world.manager().remove(name, when_free=when_free)
        except EnvironmentInUse:
            assert not when_free
            assert name in self.held()
        else:
            del self.used_at[name]

    @rule(
        max_age_h=st.sampled_from([0, 2, 24]), units=st.integers(0, 11), min_age_h=st.sampled_from([0, 1, 24]),
    )  # fmt: skip
    def collect(self, max_age_h: int, units: int, min_age_h: int) -> None:
        """Remove exactly what the model says, in its order, after a dry run has said the same."""
        limits = Limits(
            max_age_s=max_age_h * HOUR_S,
            # Half a unit for what environments have beside the one large file.
            max_total_bytes=units * UNIT_BYTES + UNIT_BYTES // 2 if units else 0,
            min_age_s=min_age_h * HOUR_S,
        )
        self.sampled()
        expected = self.to_go(max_age_h * HOUR_S, units, min_age_h * HOUR_S)
        planned = self.world.manager().collect(limits=limits, dry_run=True)
        assert names_in(planned) == expected
        assert published(self.world) == set(self.used_at)
        assert self.world.manager().collect(limits=limits) == planned
        for name in expected:
            del self.used_at[name]

    def to_go(self, max_age_s: float, units: int, min_age_s: float) -> list[EnvName]:
        now, total, gone = self.clock.now, sum(UNITS[name] for name in self.used_at), []
        order = sorted(self.used_at, key=lambda name: (name in self.aliased, self.used_at[name], name))
        used = {holder.name for holder in self.holders if self.is_of_published(holder)}
        for name in order:
            unused_s = now - self.used_at[name]
            if name in used or name in self.pinned or unused_s < min_age_s:
                continue
            if 0 < max_age_s < unused_s or 0 < units < total:
                gone.append(name)
                total -= UNITS[name]
        return gone

    def is_of_published(self, holder: Holder) -> bool:
        return ready.resolve(str(self.world.root), holder.name) == (holder.name, holder.lease.build_id)

    @rule(plan=st.lists(st.tuples(WHICH, st.booleans()), min_size=1, max_size=6), min_age_h=st.sampled_from([0, 24]))
    def collect_while_leases_come_and_go(self, plan: list[tuple[int, bool]], min_age_h: int) -> None:
        """Let everything go that may, while leases are taken and given back; what has one at its turn stays."""
        left = list(plan)

        def observer(step: Step, point: str) -> None:
            if left:
                which, is_taking = left.pop()
                if is_taking:
                    with contextlib.suppress(EnvironmentInUse):  # it is being removed this very moment
                        lease = ready.acquire(str(self.world.root), SPECS[which].name, patience_s=0.0)
                        if lease is not None:
                            self.holders.append(Holder(lease, is_child=which % 2 == 0))
                elif self.holders:
                    self.holders.pop(which % len(self.holders)).drop()

        self.sampled()
        with observed(observer):
            found = self.world.manager().collect(
                limits=Limits(max_age_s=1.0, max_total_bytes=1, min_age_s=min_age_h * HOUR_S)
            )
        for name in names_in(found):
            assert name not in self.pinned
            assert self.clock.now - self.used_at[name] >= min_age_h * HOUR_S
            del self.used_at[name]

    # -------------------------------------------------------------------------------------------------- what holds

    @invariant()
    def what_is_known_is_published_and_whole(self) -> None:
        assert published(self.world) == set(self.used_at)
        for name in self.used_at:
            assert is_whole(self.world, name)

    @invariant()
    def what_is_leased_is_there(self) -> None:
        for holder in self.holders:
            assert (holder.prefix / "filling").stat().st_size == UNITS[holder.name] * UNIT_BYTES


TestStore = Store.TestCase
TestStore.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
