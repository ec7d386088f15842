"""Where everything stands in the cluster's tree (`envmgr.wire.tree` says what), and whose tree it is.

A host remembers the uuid of the cluster that it joined. From then on a tree without ``/v1/cluster``, or with another
uuid, is not its cluster's: it was emptied, restored from elsewhere, or the settings point to another ZooKeeper. Nothing
may be concluded from what does not stand in such a tree; above all nothing may be removed.
"""

from __future__ import annotations

import contextlib
import time
import uuid

from envmgr.coordination.zookeeper.nodes import Create, NodeExists, Tree
from envmgr.errors import ClusterTreeRefused
from envmgr.version import __version__
from envmgr.wire.tree import FORMAT, Cluster, Revision, decode, encode

CLUSTER = "/v1/cluster"
REVISION = "/v1/revision"
HOSTS = "/v1/hosts"
CORDONS = "/v1/cordons"
ENVS = "/v1/envs"
ALIASES = "/v1/aliases"
LOCKFILES = "/v1/lockfiles"
STATUS = "/v1/status"
PROGRESS = "/v1/progress"
ARCHIVES = "/v1/archives"
GIVING = "/v1/giving"
CLAIMS = "/v1/claims"


def host(host: str) -> str:
    return f"{HOSTS}/{host}"


def cordon(host: str) -> str:
    return f"{CORDONS}/{host}"


def intent(name: str) -> str:
    return f"{ENVS}/{name}"


def alias(alias: str) -> str:
    return f"{ALIASES}/{alias}"


def status(host: str) -> str:
    return f"{STATUS}/{host}"


def progress(host: str) -> str:
    return f"{PROGRESS}/{host}"


def classes(name: str) -> str:
    """Return the node whose children are the machine classes that `name` has lockfiles for."""
    return f"{LOCKFILES}/{name}"


def generations(name: str, machine_class: str) -> str:
    """Return the node whose children are manifests, failures, and the nodes of parts."""
    return f"{LOCKFILES}/{name}/{machine_class}"


def manifest(name: str, machine_class: str, generation: int) -> str:
    return f"{LOCKFILES}/{name}/{machine_class}/{generation:010d}"


def failure(name: str, machine_class: str, generation: int) -> str:
    return f"{manifest(name, machine_class, generation)}-failed"


def parts(name: str, machine_class: str, solve: str) -> str:
    """Return the node whose children are the parts that the solve of that id wrote."""
    return f"{LOCKFILES}/{name}/{machine_class}/parts-{solve}"


def part(name: str, machine_class: str, solve: str, number: int) -> str:
    return f"{parts(name, machine_class, solve)}/{number}"


def build_claim(store_id: str, name: str) -> str:
    return f"{CLAIMS}/build/{store_id}/{name}"


def solve_claim(name: str, machine_class: str) -> str:
    return f"{CLAIMS}/solve/{name}/{machine_class}"


def rollout_claim(name: str) -> str:
    return f"{CLAIMS}/rollout/{name}"


# ----------------------------------------------------------------------------------------------------- whose tree it is


def found(tree: Tree, *, may_create: bool = True) -> Cluster:
    """Return the cluster, which is made if there is none; raises `ClusterTreeRefused` for a newer one.

    With ``may_create=False`` there must be one: it is refused with the field ``reason`` ``missing``.
    """
    if may_create and tree.get(CLUSTER) is None:
        make(tree, Cluster(uuid=uuid.uuid4().hex, created_at=time.time(), envmgr_version=__version__))
    return check(tree, None)


def make(tree: Tree, cluster: Cluster, *, imported: int = 0) -> None:
    """Make the tree of a cluster; another one's, made in between, stays.

    `imported` is the number of the first revision of a tree that a document is to be imported into.
    """
    revision = Revision(number=imported, cluster=cluster.uuid, imported=imported)
    for path in (ENVS, ALIASES, CORDONS, LOCKFILES, STATUS, HOSTS):
        with contextlib.suppress(NodeExists):
            tree.create(path)
    # Together: an intent without its revision would be seen by nobody. Another host that was faster is as good.
    with contextlib.suppress(NodeExists):
        tree.write([Create(CLUSTER, encode(cluster)), Create(REVISION, encode(revision))])


def check(tree: Tree, expected_uuid: str | None) -> Cluster:
    """Return the cluster if it is the one with that uuid (``None``: any).

    Raises `ClusterTreeRefused`; its field ``reason`` is ``missing`` (nobody made one yet, and none was expected),
    ``emptied`` (also in part, whoever is expected), ``other`` (another uuid) or ``newer`` (of a newer envmgr).
    """
    where = f"{tree.endpoint.root} of {', '.join(tree.endpoint.servers)}"
    node = tree.get(CLUSTER)
    is_left = False
    if node is None:
        tree.sync()  # the server that was asked may lag behind
        is_left = tree.get(REVISION) is not None  # made together with the cluster's node, so it is looked at before
        node = tree.get(CLUSTER)
    if node is None and expected_uuid is None and is_left:
        raise ClusterTreeRefused(
            f"the tree {where} was emptied in part: it says no more which cluster it is",
            hint="restore ZooKeeper's data, or `envmgr cluster import` an export; without either, delete what is left "
            "of it in ZooKeeper before `envmgr cluster create`",
            reason="emptied",
            expected=None,
        )
    if node is None and expected_uuid is None:
        raise ClusterTreeRefused(
            f"there is no cluster in {where}",
            hint="`envmgr cluster create` makes one; where there was one, `envmgr cluster import` puts an export back",
            reason="missing",
        )
    if node is None:
        raise ClusterTreeRefused(
            f"the tree {where} was emptied; this host belongs to the cluster {expected_uuid}, and changes nothing",
            hint="restore ZooKeeper's data, or `envmgr cluster import` an export",
            reason="emptied",
            expected=expected_uuid,
        )
    cluster = decode(Cluster, node.data, CLUSTER)
    if cluster.format > FORMAT:
        raise ClusterTreeRefused(
            f"the tree {where} has format {cluster.format} (envmgr {cluster.envmgr_version}); this envmgr "
            f"{__version__} knows formats up to {FORMAT}, and changes nothing",
            hint="upgrade envmgr on this host",
            reason="newer",
            format=cluster.format,
        )
    if expected_uuid is not None and cluster.uuid != expected_uuid:
        raise ClusterTreeRefused(
            f"the tree {where} is cluster {cluster.uuid}; this host belongs to {expected_uuid}, and changes nothing",
            hint="point the settings zookeeper and zookeeper_root to this host's cluster, or import its export there",
            reason="other",
            expected=expected_uuid,
            found=cluster.uuid,
        )
    return cluster
