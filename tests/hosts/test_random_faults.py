"""A short run of random work and random faults, by a seed; ``scripts/soak --only cluster`` goes on for longer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hosts.clusters import Cluster
from hosts.random_faults import Run, make_cluster

pytestmark = pytest.mark.slow


def test_a_seeded_run(new_cluster: Callable[..., Cluster]) -> None:
    """Whatever happens in a few rounds: afterwards every host is as it should be, and the history holds."""
    run = Run(make_cluster(new_cluster, 4), 20261)
    run.rounds(11, round_s=5)
    assert run.did["declared"]
