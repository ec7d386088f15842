"""Whatever befalls hosts and ZooKeeper in the middle of their work: one lockfile, one builder, and all is well then."""

from __future__ import annotations

import pytest

from hosts.clusters import Cluster
from hosts.faults import HOST_FAULTS
from hosts.nodes import Node, until

pytestmark = pytest.mark.slow


def hold(cluster: Cluster, *, solves: bool = False, builds: bool = False) -> None:
    for node in cluster.nodes.values():
        if solves:
            node.solves.close()
        if builds:
            node.builds.close()


def let_go(*nodes: Node) -> None:
    for node in nodes:
        node.solves.open()
        node.builds.open()


def others_than(cluster: Cluster, node: Node) -> list[Node]:
    return [other for other in cluster.nodes.values() if other is not node]


@pytest.mark.parametrize("harm", ["cable", "mute", "deaf", "freeze", "kill", "power", "expiry"])
def test_a_solver_that_is_harmed_is_replaced(cluster: Cluster, harm: str) -> None:
    """A host that solves and is cut off, frozen past its session, killed, or loses its session, is replaced.

    When it is back it installs what the other one published.
    """
    fault = HOST_FAULTS[harm]
    hold(cluster, solves=True)
    name = cluster.create(f"solve-{harm}")
    solver = cluster.wait_happened("solve", name)
    others = others_than(cluster, solver)
    fault.begin(cluster, solver)
    second = cluster.wait_happened("solve", name, besides=[solver])
    let_go(*others)
    digest = cluster.wait_ready(name, others)
    assert digest == second.digest(name)
    let_go(solver)
    fault.end(cluster, solver)
    assert cluster.wait_ready(name) == digest


@pytest.mark.parametrize("harm", ["mute", "deaf"])
def test_a_publisher_that_is_not_heard(cluster: Cluster, harm: str) -> None:
    """A host whose publication is lost on the way, or whose answer is: one lockfile is in force all the same."""
    hold(cluster, solves=True)
    name = cluster.create(f"publish-{harm}")
    solver = cluster.wait_happened("solve", name)
    HOST_FAULTS[harm].begin(cluster, solver)
    let_go(*cluster.nodes.values())
    digest = cluster.wait_ready(name, others_than(cluster, solver))
    HOST_FAULTS[harm].end(cluster, solver)
    assert cluster.wait_ready(name) == digest


@pytest.mark.parametrize("harm", ["cable", "freeze", "kill", "expiry"])
def test_a_builder_that_is_harmed(cluster: Cluster, harm: str) -> None:
    """A host that is harmed in the middle of its build ends it, or makes a new one; nobody waits for it."""
    fault = HOST_FAULTS[harm]
    node = cluster[3]
    node.builds.close()
    name = cluster.create(f"build-{harm}")
    until(lambda: node.name in cluster.hosts_of("build", name))
    others = others_than(cluster, node)
    digest = cluster.wait_ready(name, others)
    fault.begin(cluster, node)
    if harm in ("cable", "freeze"):
        until(lambda: node.name not in cluster.session.children("/v1/hosts"), "its session does not end")
    let_go(node)
    if harm == "cable":
        until(lambda: node.digest(name) == digest, "a build needs no ZooKeeper once its lockfile is known")
    fault.end(cluster, node)
    assert cluster.wait_ready(name) == digest
    assert len(cluster.hosts_of("solve", name)) == 1


def test_a_host_that_was_cut_off_before(cluster: Cluster) -> None:
    """A host that is away when something is declared catches up when it is back; it does not solve."""
    node = cluster[1]
    cluster.network.pull(node.host)
    until(lambda: node.name not in cluster.session.children("/v1/hosts"), "its session does not end")
    name = cluster.create("cut-off-before")
    digest = cluster.wait_ready(name, others_than(cluster, node))
    cluster.network.heal()
    assert cluster.wait_ready(name) == digest
    assert cluster.hosts_of("solve", name) != [node.name]


@pytest.mark.parametrize("who", ["leader", "follower"])
def test_a_server_that_is_killed(cluster: Cluster, who: str) -> None:
    """Without one of three servers all goes on, in the middle of a solve, too; nobody solves again."""
    hold(cluster, solves=True)
    name = cluster.create(f"without-the-{who}")
    cluster.wait_happened("solve", name)
    leader = cluster.leader()
    cluster.servers.kill(leader if who == "leader" else (leader + 1) % 3)
    let_go(*cluster.nodes.values())
    cluster.wait_ready(name)
    assert len(cluster.hosts_of("solve", name)) == 1
    cluster.start_servers()


def test_the_majority_is_killed_and_comes_back(cluster: Cluster) -> None:
    """Without a majority builds end; what is declared afterwards is made everywhere, without a restart."""
    hold(cluster, builds=True)
    name = cluster.create("without-a-majority")
    until(lambda: set(cluster.hosts_of("build", name)) == set(cluster.nodes))
    digest = next(iter(value for key, value in cluster.look().items() if key[0] == name))
    leader = cluster.leader()
    cluster.servers.kill(leader)
    cluster.servers.kill((leader + 1) % 3)
    let_go(*cluster.nodes.values())
    until(lambda: all(node.digest(name) == digest for node in cluster.nodes.values()), "builds need no ZooKeeper")
    cluster.start_servers()
    assert cluster.wait_ready(name) == digest
    cluster.wait_ready(cluster.create("after-the-majority"))


def test_every_session_is_lost_at_once(cluster: Cluster) -> None:
    """After all sessions have expired, in the middle of a solve, every host is there again and all is made."""
    hold(cluster, solves=True)
    name = cluster.create("all-sessions")
    cluster.wait_happened("solve", name)
    for node in cluster.nodes.values():
        cluster.expire(node)
    let_go(*cluster.nodes.values())
    cluster.wait_ready(name)


def test_everything_is_restarted_at_once(cluster: Cluster) -> None:
    """All hosts and all servers lose power in the middle of a solve and of builds, and are started: all is made."""
    ready = cluster.create("before-the-outage")
    digest = cluster.wait_ready(ready)
    hold(cluster, builds=True)
    building = cluster.create("built-in-the-outage")
    until(lambda: len(set(cluster.hosts_of("build", building))) == len(cluster.nodes))
    hold(cluster, solves=True)
    solving = cluster.create("solved-in-the-outage")
    cluster.wait_happened("solve", solving)
    for node in cluster.nodes.values():
        node.power_off()
    cluster.servers.kill_all()
    let_go(*cluster.nodes.values())
    for node in cluster.nodes.values():
        node.boot()
    cluster.start()
    cluster.start_servers()
    assert cluster.wait_ready(ready) == digest
    cluster.wait_ready(building)
    cluster.wait_ready(solving)
    assert len(cluster.hosts_of("build", ready)) == len(cluster.nodes)


def test_without_zookeeper(cluster: Cluster) -> None:
    """What is ready is leased, listed and named; a known lockfile is built; a solve waits, and says why it fails."""
    node = cluster[0]
    declared, own = cluster.create("declared"), "dependencies:\n  - of-this-host\n"
    cluster.wait_ready(declared)
    made = node.envmgr("create", "-", "--json", given=own.encode()).record
    assert node.envmgr("remove", made["name"]).code == 0
    cluster.servers.kill_all()
    with node.leasing(declared):
        assert declared in node.envmgr("list").out
    assert node.envmgr("name", "-", given=own.encode()).out.strip() == made["name"]
    again = node.envmgr("create", "-", "--json", given=own.encode())
    assert again.code == 0, again.err
    assert again.record["lock_digest"] == made["lock_digest"]
    refused = node.envmgr("create", "-", "--json", given=b"dependencies:\n  - unknown-to-all\n")
    assert refused.record["error"]["code"] == "coordinator"
    cluster.start_servers()
    made = node.envmgr("create", "-", "--json", given=b"dependencies:\n  - unknown-to-all\n")
    assert made.code == 0, made.err
