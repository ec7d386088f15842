"""What befalls hosts and servers; each fault begins, lasts, and ends with everything up again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hosts.clusters import Cluster
from hosts.nodes import Node


@dataclass(frozen=True, slots=True)
class Fault:
    """`end` leaves the host up, connected, and its daemon running."""

    begin: Callable[[Cluster, Node], None]
    end: Callable[[Cluster, Node], None]


def _nothing(_cluster: Cluster, _node: Node) -> None:
    """The fault is over as soon as it has happened."""


def _mute(cluster: Cluster, node: Node) -> None:
    for number in range(cluster.servers.count):
        cluster.network.drop(node.host, cluster.network[f"zk{number}"])


def _deafen(cluster: Cluster, node: Node) -> None:
    for number in range(cluster.servers.count):
        cluster.network.drop(cluster.network[f"zk{number}"], node.host)


def _start(_cluster: Cluster, node: Node) -> None:
    node.start()


def _stop(_cluster: Cluster, node: Node) -> None:
    node.stop()


def _boot(_cluster: Cluster, node: Node) -> None:
    node.boot()
    node.start()


HOST_FAULTS: Mapping[str, Fault] = {
    "cable": Fault(lambda cluster, node: cluster.network.pull(node.host), lambda cluster, _: cluster.network.heal()),
    "mute": Fault(_mute, lambda cluster, _: cluster.network.heal()),
    "deaf": Fault(_deafen, lambda cluster, _: cluster.network.heal()),
    "loss": Fault(lambda cluster, node: cluster.network.lose(node.host, 30), lambda cluster, _: cluster.network.heal()),
    "freeze": Fault(lambda _, node: node.host.freeze(), lambda _, node: node.host.thaw()),
    "kill": Fault(lambda _, node: node.kill(), _start),
    "stop": Fault(_stop, _start),
    "power": Fault(lambda _, node: node.power_off(), _boot),
    "expiry": Fault(lambda cluster, node: cluster.expire(node), _nothing),
}
"""``mute``: what it sends to the servers is lost; ``deaf``: what they send to it is; ``stop``: it leaves in
peace; ``expiry``: of its session."""
