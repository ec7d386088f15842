"""Declared once, it is on every host, from one lockfile; who comes later catches up, and who fails says why."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence

import pytest
from fakes.worlds import spec_of
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError

from envmgr.names import EnvName
from hosts.clusters import Cluster
from hosts.nodes import Node, until

pytestmark = pytest.mark.slow
_TREE = "/envmgr"


def packages(node: Node, name: str) -> list[str]:
    """Return every package of an environment with its hash, as this host installed it."""
    prefix = (node.root / "envs" / name).resolve()
    return sorted(path.read_text() for path in (prefix / "conda-meta").iterdir())


def test_one_solve_and_a_build_on_each(cluster: Cluster) -> None:
    """`cluster create` on one host: one host solves, each builds once, and all have the same packages by hash."""
    spec = spec_of("numpy", "scipy")
    answer = cluster[2].envmgr("cluster", "create", "-", "--wait", "--json", given=spec.source_text.encode())
    assert answer.code == 0, answer.err
    digest = cluster.wait_ready(spec.name)
    assert len(cluster.hosts_of("solve", spec.name)) == 1
    assert sorted(cluster.hosts_of("build", spec.name)) == sorted(cluster.nodes)
    assert list(cluster.look().values()) == [digest]
    (found,) = {tuple(packages(node, spec.name)) for node in cluster.nodes.values()}
    assert len(found) == 2


def test_a_host_that_joins_catches_up(cluster: Cluster) -> None:
    """A sixth host installs what the others have; it does not solve."""
    name = cluster.create("joined-later")
    digest = cluster.wait_ready(name)
    sixth = cluster.add().start()
    assert cluster.wait_ready(name) == digest
    assert len(cluster.hosts_of("solve", name)) == 1
    assert cluster.hosts_of("build", name).count(sixth.name) == 1


def test_a_host_without_disk_fails_alone(cluster: Cluster) -> None:
    """A host whose disk is too small says so, with a reason; the others are not held up, and it goes on when it can."""
    node = cluster.add()
    node.host.run("mount", "-t", "tmpfs", "-o", "size=4m", "small", "/var/lib/envmgr")
    node.root = node.host.root / "var/lib/envmgr"
    node.configure({**cluster.settings, "min_free_bytes": 50_000_000})
    node.start()
    name = cluster.create("disk")
    others = [other for other in cluster.nodes.values() if other is not node]
    cluster.wait_ready(name, others)
    until(lambda: cluster.states(name)[node.name] == "failed", lambda: cluster.states(name))
    row = cluster.administration.why(name, node.name)
    assert (row.success, row.code) == (False, "no_space")
    assert row.message is not None
    assert "48 MiB" in row.message
    node.configure(cluster.settings)
    node.stop()
    node.start()
    cluster.wait_ready(name)


def test_a_host_that_was_down_during_the_removal(cluster: Cluster) -> None:
    """Removed everywhere at once but on a host that is down; there it goes when the host comes back."""
    name = cluster.create("removed")
    cluster.wait_ready(name)
    down, *others = cluster.nodes.values()
    down.power_off()
    cluster.remove(name)
    cluster.wait_absent(name, others)
    assert down.digest(name) is not None
    assert cluster.administration.show(name).state == "absent"
    down.boot()
    down.start()
    cluster.wait_absent(name)
    until(lambda: name not in {it.name for it in cluster.administration.status().environments}, "absent for ever")


def test_an_emptied_and_a_restored_tree(new_cluster: Callable[..., Cluster]) -> None:
    """When the tree is gone, and when an older one comes back, no host deletes anything; what is new is made again."""
    cluster = new_cluster(3, servers=1)
    cluster.start()
    old, again = cluster.create("in-the-old-tree"), cluster.create("declared-again")
    cluster.wait_ready(old)
    cluster.wait_ready(again)
    down, *others = cluster.nodes.values()
    down.power_off()
    cluster.remove(again)
    cluster.wait_absent(again, others)
    with cluster.zookeeper() as client:
        kept = _export(client, _TREE)  # in which it is absent
        down.boot()
        down.start()
        cluster.wait_absent(again)
        new = cluster.create("newer-than-the-copy")
        assert cluster.create("declared-again") == again
        names = (old, new, again)
        for name in names:
            cluster.wait_ready(name)
        deleted = [len(cluster.hosts_of("delete", name)) for name in names]
        cluster.prove()
        _replace(client, {})
        _wait_problem(cluster, "empt")
        assert _is_all_there(cluster, names)
        _replace(client, kept)
    _wait_problem(cluster, "restored")
    later = cluster.create("after-the-restoration")
    cluster.wait_ready(later)
    assert _is_all_there(cluster, names)
    assert [len(cluster.hosts_of("delete", name)) for name in names] == deleted


def _is_all_there(cluster: Cluster, names: Sequence[EnvName]) -> bool:
    return all(node.digest(name) is not None for node in cluster.nodes.values() for name in names)


def _wait_problem(cluster: Cluster, word: str) -> None:
    """Wait until every host says what is wrong with the tree."""

    def is_told() -> bool:
        return all(word in node.envmgr("status").out for node in cluster.nodes.values())

    until(is_told, lambda: [node.envmgr("status") for node in cluster.nodes.values()])


def _export(client: KazooClient, path: str, *, is_whole: bool = False) -> dict[str, bytes]:
    """Return the data of all nodes, or of those that are not ephemeral."""
    data, stat = client.get(path)
    found = {} if stat.ephemeralOwner and not is_whole else {path: data}
    for entry in client.get_children(path):
        with contextlib.suppress(NoNodeError):
            found.update(_export(client, f"{path}/{entry}", is_whole=is_whole))
    return found


def _replace(client: KazooClient, kept: Mapping[str, bytes]) -> None:
    """Put these nodes in the place of all that are there, at once, as servers do that are started on other data."""

    def is_done() -> bool:
        transaction = client.transaction()
        for path in sorted(_export(client, _TREE, is_whole=True), reverse=True):
            transaction.delete(path)
        for path in sorted(kept) or [_TREE]:
            transaction.create(path, kept.get(path, b""))
        return not [it for it in transaction.commit() if isinstance(it, Exception)]

    until(is_done)  # while hosts write
