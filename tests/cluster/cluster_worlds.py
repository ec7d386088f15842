"""What the tests of a cluster say and hear: declarations, and hosts that answer."""

from __future__ import annotations

import contextlib
import dataclasses

from fakes.worlds import spec_of

from envmgr.coordination.zookeeper import tree as paths
from envmgr.coordination.zookeeper.nodes import NodeExists, Tree
from envmgr.names import EnvName
from envmgr.wire.cluster import Declaration
from envmgr.wire.tree import EnvironmentStatus, EnvState, Host, HostStatus, Revision, Selector, decode, encode


def declaration(*requirements: str, hosts: tuple[str, ...] = (), labels: dict[str, str] | None = None) -> Declaration:
    """Declare the environment of these requirements."""
    spec = dataclasses.asdict(spec_of(*requirements))
    return Declaration(spec=spec, selector=Selector(hosts=hosts, labels=labels or {}))


def name_of(declared: Declaration) -> EnvName:
    return EnvName(str(declared.spec["name"]))


def join(tree: Tree, host: str, **labels: str) -> None:
    """Let a host live."""
    record = Host(
        host=host,
        instance="1",
        machine_id=host,
        boot_id="b",
        store_id=host,
        machine_class="linux-64",
        version="0",
        labels=labels,
        since=5.0,
    )
    tree.create(paths.host(host), encode(record), is_ephemeral=True)


def say(tree: Tree, host: str, *environments: EnvironmentStatus, revision: int = 0, **labels: str) -> None:
    """Let a host say how its environments are, in place of what it said before."""
    status = HostStatus(host=host, instance="1", revision=revision, at=7.0, environments=environments, labels=labels)
    with contextlib.suppress(NodeExists):
        tree.create(paths.status(host))
    tree.put(paths.status(host), encode(status))


def is_so(name: str, state: EnvState, generation: int, **facts: object) -> EnvironmentStatus:
    """Say that an environment is so."""
    return dataclasses.replace(EnvironmentStatus(name=name, state=state, generation=generation), **facts)  # type: ignore[arg-type]


def number_of(tree: Tree) -> int:
    """Return the tree's revision."""
    node = tree.get(paths.REVISION)
    return 0 if node is None else decode(Revision, node.data, paths.REVISION).number
