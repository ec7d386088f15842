"""One store on a file system that two hosts mount: what is exclusive on one host is exclusive on both."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest
from fakes.worlds import spec_of

from hosts.clusters import Cluster
from hosts.nodes import Node, until

pytestmark = pytest.mark.slow


def two_mounts(new_cluster: Callable[..., Cluster], *options: str) -> Cluster:
    """Return a cluster of two hosts that mount one directory, each by a process of its own."""
    if shutil.which("bindfs") is None:
        pytest.skip("needs bindfs")
    cluster = new_cluster(2, servers=1)
    directory = cluster.network.directory / "shared"
    directory.mkdir()
    for node in cluster.nodes.values():
        node.share(directory, *options)
    cluster.start()
    return cluster


@pytest.fixture(scope="module")
def sound(new_cluster: Callable[..., Cluster]) -> Cluster:
    """Two hosts with one store, whose locks hold between them."""
    return two_mounts(new_cluster, "--enable-lock-forwarding")


def test_one_build_for_both(sound: Cluster) -> None:
    """What both hosts want at the same time is built once, and both say that it is ready."""
    name = sound.create("shared")
    sound.wait_ready(name)
    assert len(sound.hosts_of("build", name)) == 1
    sound.prove_rest()


def test_a_host_that_dies_while_it_builds(sound: Cluster) -> None:
    """The other host takes over when the dead one's claim has ended, from the same lockfile."""
    for node in sound.nodes.values():
        node.builds.close()
    name = sound.create("taken-over")
    first = sound.wait_happened("build", name)
    until(lambda: name in {key[0] for key in sound.look()}, "no lockfile")
    (other,) = (node for node in sound.nodes.values() if node is not first)
    first.kill()
    other.builds.open()
    sound.wait_ready(name, [other])
    assert sound.hosts_of("build", name) == [first.name, other.name]
    assert len(sound.hosts_of("solve", name)) == 1
    first.builds.open()
    first.start()
    sound.wait_ready(name)
    sound.prove_rest()


def test_a_lease_on_one_host_is_respected_on_the_other(sound: Cluster) -> None:
    """A removal takes the name away at once, and the files when the last process, on whatever host, has ended."""
    name = sound.create("leased")
    sound.wait_ready(name)
    holder, remover = sound.nodes.values()
    prefix = (remover.root / "envs" / name).resolve()
    with holder.leasing(name):
        sound.remove(name)
        sound.wait_absent(name)
        own = made(remover, "leased-there-too")
        with holder.leasing(own):
            assert remover.envmgr("remove", own, "--json").record["error"]["code"] == "in_use"
        assert remover.envmgr("remove", own).code == 0
        assert prefix.is_dir()
    until(lambda: not prefix.exists(), "its files stay")
    sound.prove_rest()


def test_a_removal_while_the_other_host_goes_down(sound: Cluster) -> None:
    """A dead host's lock looks as if it did not exclude, until its session ends: the removal is tried again."""
    name = sound.create("outlives-a-host")
    sound.wait_ready(name)
    dead, other = sound.nodes.values()
    dead.kill()
    sound.remove(name)
    until(lambda: other.digest(name) is None, lambda: sound.administration.why(name, other.name))
    dead.start()
    sound.prove_rest()


def test_a_store_whose_locks_do_not_hold(new_cluster: Callable[..., Cluster]) -> None:
    """Where flock ends at the mount, building works, since claims exclude; nothing that may be in use is deleted."""
    cluster = two_mounts(new_cluster)
    name = cluster.create("shared")
    cluster.wait_ready(name)
    assert len(cluster.hosts_of("build", name)) == 1
    holder, remover = cluster.nodes.values()
    own = made(remover, "own")
    with holder.leasing(own):
        refused = remover.envmgr("remove", own, "--json")
        assert refused.record["error"]["code"] == "filesystem", refused
    assert remover.digest(own) is not None
    cluster.prove()


def made(node: Node, word: str) -> str:
    """Make an environment that only this host asks for, and return its name."""
    spec = spec_of(word)
    answer = node.envmgr("create", "-", given=spec.source_text.encode())
    assert answer.code == 0, answer.err
    return spec.name
