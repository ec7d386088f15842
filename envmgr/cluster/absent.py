"""When the intent ``absent`` has done its work: every known host has acknowledged it, or was forgotten.

A host is known by its node below ``v1/status``, which outlives the host's own life. Until then the node stays, so that
a host that was down learns of it when it comes back. After an import nobody can say which hosts there were: what is
``absent`` then, stays so until it is removed once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envmgr.cluster.statuses import Statuses
from envmgr.cluster.writing import Draft, write
from envmgr.coordination.zookeeper import tree as paths
from envmgr.errors import Corrupt
from envmgr.names import EnvName
from envmgr.wire.cluster import Intent, Revision, decode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from envmgr.cluster.statuses import Known
    from envmgr.cluster.tree import Tree
    from envmgr.ports import Clock


def sweep_absent(
    tree: Tree, clock: Clock, absent: Iterable[EnvName], *, known: Mapping[str, Known] | None = None
) -> tuple[EnvName, ...]:
    """Delete the intents that are ``absent`` everywhere, and return their names.

    `absent` are those to look at (`Wanted.absent`); without any nothing is read. Else it reads one node per known host
    (or takes `known`): enough for one host of the cluster to call it now and then, such as the first of those that
    live. Whoever else does so at the same time is not in the way.
    """
    candidates = sorted(absent)
    if not candidates:
        return ()
    hosts = (Statuses(tree, clock).refresh() if known is None else known).values()

    imported = imported_at(tree)

    def plan(_number: int) -> Draft[tuple[EnvName, ...]]:
        gone = []
        draft: Draft[tuple[EnvName, ...]] = Draft(())
        for name in candidates:
            node = tree.get(paths.intent(name))
            try:
                intent = None if node is None else decode(Intent, node.data, paths.intent(name))
            except Corrupt:
                continue
            if intent is None or intent.state != "absent" or intent.generation <= imported:
                continue
            if all(host.has_acknowledged(intent) for host in hosts):
                draft.drop(paths.intent(name), name)
                gone.append(name)
        draft.result = tuple(gone)
        return draft

    return write(tree, plan, clock)


def imported_at(tree: Tree) -> int:
    """Return the number at which a document was imported last, 0 if none was."""
    node = tree.get(paths.REVISION)
    return 0 if node is None else decode(Revision, node.data, paths.REVISION).imported
