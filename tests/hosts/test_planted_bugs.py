"""Real hosts with a bug in them: the history shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from fakes.worlds import spec_of

from hosts import history
from hosts.clusters import Cluster
from hosts.nodes import Node, until

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(new_cluster: Callable[..., Cluster]) -> Iterator[Cluster]:
    with new_cluster(2, servers=1) as made:
        yield made


def found(cluster: Cluster) -> list[str]:
    cluster.look()
    return history.violations(cluster.events())


def plant(bug: str, *nodes: Node) -> None:
    for node in nodes:
        node.variables["PLANTED"] = bug


def test_a_build_lock_that_does_not_exclude(cluster: Cluster) -> None:
    """Two processes of one host that build the same at the same time are seen."""
    node = cluster[0]
    plant("no build lock", node)
    node.builds.close()
    spec = spec_of("twice")
    with node.running("create", "-", given=spec.source_text.encode()) as one:
        until(lambda: len(cluster.hosts_of("build", spec.name)) == 1)
        with node.running("create", "-", given=spec.source_text.encode()) as other:
            until(lambda: len(cluster.hosts_of("build", spec.name)) == 2)
            node.builds.open()
            one.wait()
            other.wait()
    assert any("two builders at a time" in said for said in found(cluster))


def test_a_solver_without_a_claim(cluster: Cluster) -> None:
    """A host that publishes a lockfile without the claim on its solve is seen, whether harm came of it or not."""
    plant("no claim", *cluster.nodes.values())
    cluster.start()
    name = cluster.create("unclaimed")
    until(lambda: any(node.digest(name) is not None for node in cluster.nodes.values()))
    assert any("under a claim that nobody got" in said for said in found(cluster))


def test_a_removal_under_a_lease(cluster: Cluster) -> None:
    """A build that is deleted while a process holds its lease is seen."""
    node = cluster[0]
    spec = spec_of("leased")
    assert node.envmgr("create", "-", given=spec.source_text.encode()).code == 0
    assert found(cluster) == []
    plant("no lease", node)
    with node.leasing(spec.name):
        assert node.envmgr("remove", spec.name).code == 0
    assert any("deleted under a lease" in said for said in found(cluster))
