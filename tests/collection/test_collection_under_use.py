"""Real processes lease and look while another one creates and collects without pause."""

from __future__ import annotations

from pathlib import Path

from fakes.clock import FakeClock
from fakes.processes import Forked, all_results
from fakes.worlds import World
from stores import DAY_S, create, names_in, specs

from envmgr import ready
from envmgr.errors import EnvironmentInUse
from envmgr.manager.collection import Limits

SPECS = specs(3)
ROUNDS = 8
READERS = 2


def test_whoever_has_a_lease_has_the_files(world: World, clock: FakeClock, tmp_path: Path) -> None:
    """Of all leases taken while environments come and go, none is of files that are not all there."""
    end = tmp_path / "end"

    def read() -> tuple[int, int]:
        leased = absent = 0
        while not end.exists():
            for spec in SPECS:
                try:
                    lease = ready.acquire(str(world.root), spec.name)
                except EnvironmentInUse:
                    continue
                if lease is None:
                    absent += 1
                    continue
                for _ in range(3):
                    assert Path(lease.prefix, "filling").stat().st_size == 1000
                    assert list(Path(lease.prefix, "conda-meta").iterdir())
                leased += 1
                lease.close()
        return leased, absent

    readers = [Forked(read) for _ in range(READERS)]
    collected = 0
    try:
        for _ in range(ROUNDS):
            for spec in SPECS:
                create(world, spec, size_bytes=1000)
            clock.now += 2 * DAY_S
            collected += len(names_in(world.manager().collect(limits=Limits(max_age_s=DAY_S, min_age_s=0.0))))
    finally:
        end.touch()
        counts = all_results(readers)
    assert sum(leased for leased, _ in counts) > 0
    assert sum(absent for _, absent in counts) > 0
    assert collected > 0
