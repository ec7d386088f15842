"""The whole intent as one document, and such a document put into a tree: for backup, and for moving a cluster.

A document holds what administrators said (environments, aliases, cordons, settings, machine classes) and the lockfiles
in force of what is declared, so that the same packages are installed wherever it is imported. It holds nothing of the
hosts: they say themselves how they are.

Into a tree without a cluster, an import gives the document's uuid back: hosts that belonged to it go on where they
were. With ``replace`` it takes the place of what is there. What the document does not name is not declared any more,
and *nothing is removed from hosts by that*.

Order: lockfiles first, so that no host solves again what is in the document; then the cluster's node and the intents,
in as many writes as they need. One that broke off is repeated with ``replace``. The revision goes on far above every
number that a host can have seen (`AHEAD`), by which hosts know that an administrator wants the tree as it is. Not above
those of an earlier import of the very same document: after another one of it the hosts take the tree for a restored
one, remove nothing, and say what to do (export and import what is there).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from dataclasses import replace as replace_
from functools import partial
from typing import TYPE_CHECKING

from envmgr import codec, names
from envmgr.cluster import lockfiles, reading, shared
from envmgr.cluster.declaring import check_size, checked_spec, is_same, plain
from envmgr.cluster.intent import intent_of
from envmgr.cluster.writing import CLUSTER, MOST_NODES, Draft, write
from envmgr.coordination.zookeeper import tree as paths
from envmgr.coordination.zookeeper.lockfiles import MOST_GENERATIONS, split, without_credentials
from envmgr.errors import ClusterTreeRefused, CoordinatorUnavailable, Corrupt, UsageError
from envmgr.version import __version__
from envmgr.wire.cluster import Exported
from envmgr.wire.tree import FORMAT, Cluster, Intent, Revision, decode, encode

if TYPE_CHECKING:
    from envmgr.coordination.zookeeper.nodes import Tree
    from envmgr.ports import Clock

AHEAD = 1 << 20
"""More writes of intent than can have come between an export and the loss of the tree."""
_BATCH_BYTES = 500_000
_TRIES = 10


@dataclass(frozen=True, slots=True)
class Item:
    """What a node is to hold; ``None``: it is to go. An intent is compared by what it says, not by its bytes."""

    path: str
    what: str
    data: bytes | None
    intent: Intent | None = None


def export(tree: Tree, clock: Clock) -> Exported:
    """Return what is wanted at one moment, now. Raises `ClusterTreeRefused`, `CoordinatorUnavailable`, `Corrupt`."""
    tree.sync()
    for _ in range(_TRIES):
        revision = _revision(tree)
        cluster = paths.check(tree, None)
        environments = reading.intents(tree)
        aliases = reading.aliases(tree)
        cordons = tree.children(paths.CORDONS)
        # What was declared or removed meanwhile would be in it by half: an alias without what it stands for.
        if _revision(tree) == revision:
            break
    else:
        raise CoordinatorUnavailable(
            f"the cluster's intent was changed by others {_TRIES} times while it was read", hint="try again"
        )
    published = [
        found
        for intent in environments
        for machine_class in tree.children(paths.classes(intent.name))
        if intent.state == "present" and (found := lockfiles.in_force(tree, intent.name, machine_class)) is not None
    ]
    return Exported(
        format=FORMAT,
        uuid=cluster.uuid,
        exported_at=clock.time(),
        cluster=cluster,
        environments=environments,
        aliases={str(alias): str(name) for alias, name in aliases.items()},
        cordons=cordons,
        revision=0 if revision is None else revision.number,
        lockfiles=tuple(asdict(found) for found in published),
    )


def import_(tree: Tree, clock: Clock, document: Exported, *, replace: bool) -> Cluster:
    """Put a document into the tree. Raises `UsageError` for a document or a tree that does not fit.

    `LockfileMismatch` if the tree has another lockfile of the same generation.
    """
    document, published = _checked(document)
    old = None if tree.get(paths.CLUSTER) is None else paths.check(tree, None)
    if old is not None and not replace:
        raise UsageError(
            f"ZooKeeper's tree has a cluster already: {old.uuid}",
            hint="import --replace puts the document in its place",
            uuid=old.uuid,
        )
    for found in published:
        lockfiles.publish(tree, found)
    heal = max(document.cluster.heal, old.heal if old else 0)
    cluster = replace_(document.cluster, uuid=document.uuid, heal=heal, envmgr_version=__version__)
    number = document.revision + AHEAD
    if old is None:
        left = _revision(tree)
        if left is not None:  # the tree was emptied in part
            number = max(number, left.number + AHEAD)
            tree.delete(paths.REVISION)
        paths.make(tree, cluster, imported=number)
    for batch in _batches(_items(tree, document, cluster)):
        write(tree, partial(_plan, tree, batch, cluster.uuid, old is not None), clock, is_import=True, least=number)
    return paths.check(tree, None)


def _revision(tree: Tree) -> Revision | None:
    node = tree.get(paths.REVISION)
    return None if node is None else decode(Revision, node.data, paths.REVISION)


def _checked(document: Exported) -> tuple[Exported, list[lockfiles.Carried]]:
    """Refuse a document that would leave a tree that no verb could have made; return it with its lockfiles.

    Of its specs that remains which their texts say, without credentials.
    """
    if document.format > FORMAT or document.cluster.format > FORMAT:
        raise ClusterTreeRefused(
            f"the document has format {max(document.format, document.cluster.format)}; this envmgr knows {FORMAT}",
            hint="upgrade envmgr here",
            reason="newer",
        )
    if not reading.is_segment(document.uuid) or document.revision < 0:
        raise UsageError("the document is damaged: it is of no cluster")
    declared: dict[str, Intent] = {}
    for intent in document.environments:
        spec = checked_spec(intent.spec)
        if spec.name != intent.name or intent.name in declared:
            raise UsageError(f"the document is damaged: {intent.name} has the spec of another environment, or is twice")
        declared[intent.name] = replace_(intent, spec=plain(spec))
        check_size(declared[intent.name])
    for alias, name in document.aliases.items():
        if names.alias(alias) and name not in declared:
            raise UsageError(f"the document is damaged: alias {alias} stands for {name}, which it does not declare")
    if not all(map(reading.is_segment, document.cordons)):
        raise UsageError("the document is damaged: a cordon is for no host")
    shared.merged_settings({}, document.cluster.settings)
    shared.merged_classes({}, document.cluster.classes)
    try:
        published = [codec.load(lockfiles.Carried, found) for found in document.lockfiles]
    except ValueError as error:
        raise UsageError(f"the document is damaged: {error}") from error
    for found in published:
        if found.name not in declared or not 0 < found.generation < MOST_GENERATIONS:
            raise UsageError(f"the document is damaged: it has a lockfile of {found.name!r}, which it does not declare")
        shared.checked_class(found.machine_class)
        split(found.name, found.text.encode())
        without_credentials(found.text, found.machine_class.partition("+")[0])
    return replace_(document, environments=tuple(declared.values())), published


def _items(tree: Tree, document: Exported, cluster: Cluster) -> Iterator[Item]:
    yield Item(paths.CLUSTER, CLUSTER, encode(cluster))
    for intent in document.environments:
        yield Item(paths.intent(intent.name), intent.name, encode(intent), intent)
    for alias, name in document.aliases.items():
        yield Item(paths.alias(alias), f"aliases/{alias}", name.encode("ascii"))
    for host in document.cordons:
        yield Item(paths.cordon(host), f"cordons/{host}", b"")
    declared = {intent.name for intent in document.environments}
    for name in sorted({*tree.children(paths.ENVS)} - declared):
        yield Item(paths.intent(name), name, None)
    for alias in sorted({*tree.children(paths.ALIASES)} - {*document.aliases}):
        yield Item(paths.alias(alias), f"aliases/{alias}", None)
    for host in sorted({*tree.children(paths.CORDONS)} - {*document.cordons}):
        yield Item(paths.cordon(host), f"cordons/{host}", None)


def _batches(items: Iterator[Item]) -> Iterator[list[Item]]:
    batch: list[Item] = []
    size = 0
    for item in items:
        size += len(item.path) + len(item.data or b"")
        if batch and (size > _BATCH_BYTES or len(batch) >= MOST_NODES):
            yield batch
            batch, size = [], len(item.data or b"")
        batch.append(item)
    if batch:
        yield batch


def _plan(tree: Tree, batch: list[Item], uuid: str, is_replaced: bool, number: int) -> Draft[None]:
    draft: Draft[None] = Draft(None, uuid=uuid)
    for item in batch:
        node, data = tree.get(item.path), item.data
        if data is None:
            if node is not None:
                draft.drop(item.path, item.what)
            continue
        if item.intent is not None and node is not None and _says(node.data, item.intent):
            data = node.data
        elif item.intent is not None and (is_replaced or node is not None):
            data = encode(replace_(item.intent, generation=number))
        if node is None or node.data != data:
            draft.put(item.path, data, None if node is None else node.version, item.what)
    return draft


def _says(data: bytes, intent: Intent) -> bool:
    """Tell whether a node says what an intent says; one that cannot be read does not, and is replaced."""
    try:
        return is_same(intent_of(intent.name, data), intent)
    except Corrupt:
        return False
