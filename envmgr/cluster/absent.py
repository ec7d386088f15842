"""When the intent ``absent`` has done its work: every known host has acknowledged it, or was forgotten.

A host is known by its node below ``v1/status``, which outlives the host's own life. Until then the node stays, so that
a host that was down learns of it when it comes back. After an import nobody can say which hosts there were: what is
``absent`` then, stays so until it is removed once more.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from envmgr.cluster.intent import intent_of
from envmgr.cluster.statuses import Statuses
from envmgr.cluster.writing import MOST_NODES, Draft, write
from envmgr.coordination.zookeeper import tree as paths
from envmgr.errors import Corrupt
from envmgr.names import EnvName
from envmgr.wire.tree import Intent, Revision, decode

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from envmgr.coordination.zookeeper.nodes import Tree
    from envmgr.ports import Clock


def sweep_absent(tree: Tree, clock: Clock, absent: Iterable[EnvName]) -> tuple[EnvName, ...]:
    """Delete the intents that are ``absent`` everywhere, and return their names.

    `absent` are those to look at (`Wanted.absent`); without any nothing is read. Hosts that are away are asked first,
    and no more of them than it takes to know that nothing can go yet: one host of the cluster may call it now and then,
    such as the first of those that live. Whoever else does so at the same time is not in the way.
    """
    names = sorted(absent)
    if not names:
        return ()
    imported = imported_at(tree)
    found = {name: intent for name in names if (intent := _absent(tree, name)) and intent.generation > imported}
    statuses = Statuses(tree, clock)
    live = set(tree.children(paths.HOSTS))
    for host in sorted(tree.children(paths.STATUS), key=lambda host: (host in live, host)):
        if not found:
            return ()
        known = statuses.said_by(host)
        found = {name: intent for name, intent in found.items() if known.has_acknowledged(intent)}

    def plan(some: Sequence[EnvName], _number: int) -> Draft[tuple[EnvName, ...]]:
        # One that was declared again, and one that was removed again, have another generation.
        gone = tuple(name for name in some if _absent(tree, name) == found[name])
        draft = Draft(gone)
        for name in gone:
            draft.drop(paths.intent(name), name)
        return draft

    swept: tuple[EnvName, ...] = ()
    due = tuple(found)
    for at in range(0, len(due), MOST_NODES):
        swept += write(tree, partial(plan, due[at : at + MOST_NODES]), clock)
    return swept


def _absent(tree: Tree, name: EnvName) -> Intent | None:
    """Return the intent if it is one that is ``absent``."""
    node = tree.get(paths.intent(name))
    try:
        intent = None if node is None else intent_of(name, node.data)
    except Corrupt:
        return None
    return intent if intent is not None and intent.state == "absent" else None


def imported_at(tree: Tree) -> int:
    """Return the number at which a document was imported last, 0 if none was."""
    node = tree.get(paths.REVISION)
    return 0 if node is None else decode(Revision, node.data, paths.REVISION).imported
