"""Whatever befalls hosts and ZooKeeper in the middle of their work: one lockfile, one builder, and all is well then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from fakes.worlds import spec_of

from envmgr.names import EnvName
from envmgr.wire.tree import Selector
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


@dataclass
class Party:
    """Hosts that have an environment for themselves, and the one that is harmed while it solves."""

    cluster: Cluster
    harm: str
    nodes: list[Node]
    name: EnvName
    solver: Node

    @property
    def others(self) -> list[Node]:
        return [node for node in self.nodes if node is not self.solver]

    def begin(self) -> None:
        HOST_FAULTS[self.harm].begin(self.cluster, self.solver)

    def end(self) -> None:
        """End the harm; where it is one of the network, all others of the network end with it."""
        HOST_FAULTS[self.harm].end(self.cluster, self.solver)


def solving(cluster: Cluster, word: str, harms: Sequence[str]) -> list[Party]:
    """Return as many parties as there are harms, each with a host that stands still in the middle of its solve."""
    hold(cluster, solves=True)
    hosts = [*cluster.nodes.values()]
    parts = [hosts[:3], hosts[3:]][: len(harms)]
    names = [
        cluster.create(f"{word}-{harm}", selector=Selector(hosts=tuple(node.name for node in nodes)))
        for harm, nodes in zip(harms, parts, strict=True)
    ]
    return [
        Party(cluster, harm, nodes, name, cluster.wait_happened("solve", name))
        for harm, nodes, name in zip(harms, parts, names, strict=True)
    ]


@pytest.mark.parametrize("harms", [("cable", "mute"), ("deaf", "freeze"), ("kill", "power"), ("expiry",)], ids="+".join)
def test_a_solver_that_is_harmed_is_replaced(cluster: Cluster, harms: Sequence[str]) -> None:
    """A host that solves and is cut off, frozen past its session, killed, or loses its session, is replaced.

    When it is back it installs what the other one published. Two parties are harmed at a time.
    """
    parties = solving(cluster, "solve", harms)
    for party in parties:
        party.begin()
    seconds = [cluster.wait_happened("solve", party.name, besides=[party.solver]) for party in parties]
    for party in parties:
        let_go(*party.others)
    digests = [cluster.wait_ready(party.name, party.others) for party in parties]
    assert digests == [second.digest(party.name) for second, party in zip(seconds, parties, strict=True)]
    for party in parties:
        let_go(party.solver)
        party.end()
    assert [cluster.wait_ready(party.name, party.nodes) for party in parties] == digests
    let_go(*cluster.nodes.values())


def test_a_publisher_that_is_not_heard(cluster: Cluster) -> None:
    """A host whose publication is lost on the way, or whose answer is: one lockfile is in force all the same."""
    parties = solving(cluster, "publish", ["mute", "deaf"])
    for party in parties:
        party.begin()
    let_go(*cluster.nodes.values())
    digests = [cluster.wait_ready(party.name, party.others) for party in parties]
    for party in parties:
        party.end()
    assert [cluster.wait_ready(party.name, party.nodes) for party in parties] == digests


def test_builders_that_are_harmed(cluster: Cluster) -> None:
    """Hosts that are harmed in the middle of their builds end these, or make new ones; nobody waits for them."""
    well, *rest = cluster.nodes.values()
    harmed = dict(zip(("cable", "freeze", "kill", "expiry"), rest, strict=True))
    for node in rest:
        node.builds.close()
    name = cluster.create("build-harmed")
    until(lambda: {node.name for node in rest} <= set(cluster.hosts_of("build", name)))
    digest = cluster.wait_ready(name, [well])
    for harm, node in harmed.items():
        HOST_FAULTS[harm].begin(cluster, node)
    away = {harmed["cable"].name, harmed["freeze"].name}
    until(lambda: away.isdisjoint(cluster.session.children("/v1/hosts")), "their sessions do not end")
    let_go(*rest)
    until(lambda: harmed["cable"].digest(name) == digest, "a build needs no ZooKeeper once its lockfile is known")
    for harm, node in harmed.items():
        HOST_FAULTS[harm].end(cluster, node)
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


def test_a_host_that_solved_alone_is_healed(cluster: Cluster) -> None:
    """What it made while it was cut off is drift; a heal in whose middle the leader is killed brings it in line."""
    node, *others = cluster.nodes.values()
    node.variables["SOLVES_ALONE"] = "1"
    restart(node, {**cluster.settings, "solve_without_coordinator": True})
    cluster.network.pull(node.host)
    made = node.envmgr("create", "-", given=spec_of("made-alone").source_text.encode())
    assert made.code == 0, made.err
    name = cluster.create("made-alone")
    digest = cluster.wait_ready(name, others)
    cluster.network.heal()
    until(lambda: cluster.drifted(name) == [node.name], lambda: cluster.told(name))
    assert node.digest(name) != digest
    node.builds.close()
    cluster.heal()
    until(lambda: cluster.hosts_of("build", name).count(node.name) == 2, "it is not healed")
    cluster.servers.kill(cluster.leader())
    node.builds.open()
    assert cluster.wait_ready(name) == digest
    assert cluster.drifted(name) == []
    cluster.start_servers()
    del node.variables["SOLVES_ALONE"]
    restart(node, cluster.settings)


def restart(node: Node, settings: Mapping[str, object]) -> None:
    node.configure(settings)
    node.stop()
    node.start()


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
    node, other = cluster[0], cluster[1]
    declared, own = cluster.create("declared"), "dependencies:\n  - of-this-host\n"
    unknown = b"dependencies:\n  - unknown-to-all\n"
    cluster.wait_ready(declared)
    made = node.envmgr("create", "-", "--json", given=own.encode()).record
    assert node.envmgr("remove", made["name"]).code == 0
    cluster.servers.kill_all()
    with node.leasing(declared):
        assert declared in node.envmgr("list").out
    assert node.envmgr("name", "-", given=own.encode()).out.strip() == made["name"]
    with ThreadPoolExecutor() as at_once:
        refusing = at_once.submit(other.envmgr, "create", "-", "--json", given=unknown)
        again = node.envmgr("create", "-", "--json", given=own.encode())
        refused = refusing.result()
    assert again.code == 0, again.err
    assert again.record["lock_digest"] == made["lock_digest"]
    assert refused.record["error"]["code"] == "coordinator"
    cluster.start_servers()
    made = other.envmgr("create", "-", "--json", given=unknown)
    assert made.code == 0, made.err
