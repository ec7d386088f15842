"""Writing what the cluster wants: every write is one transaction with the node ``v1/revision``.

What holds at every moment: a revision's number is one more than the one before it; whatever an administrator changed
was changed together with it, by compare-and-set. So two administrators never overwrite each other unseen, and a host
that has read revision *n* knows from the changes kept in the node what it has to read to be at the newest.

What is not promised: that the changes reach back for ever. A host that is further behind than `KEPT_CHANGES` reads all.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from envmgr.coordination.zookeeper import tree as paths
from envmgr.coordination.zookeeper.nodes import BadVersion, Create, Delete, NodeExists, NoNode, Operation, Put
from envmgr.errors import CoordinatorUnavailable, Corrupt
from envmgr.wire.tree import Change, Intent, Revision, decode, encode

if TYPE_CHECKING:
    from envmgr.coordination.zookeeper.nodes import Tree
    from envmgr.ports import Clock

T = TypeVar("T")

KEPT_CHANGES = 100
CLUSTER = "cluster"
MOST_NODES = 400
"""So many nodes are changed in one write at most; thousands would be too large a request."""
_TRIES = 60
_LONGEST_PAUSE_S = 0.5


@dataclass(slots=True)
class Draft(Generic[T]):
    """What one write is to change, and what its verb returns; `uuid` is the cluster's, where the write changes it."""

    result: T
    operations: list[Operation] = field(default_factory=list)
    what: list[str] = field(default_factory=list)
    uuid: str | None = None

    def put(self, path: str, data: bytes, version: int | None, what: str) -> None:
        """Write a node; `version` is the one that it has, ``None`` if it is not there."""
        self.operations.append(Create(path, data) if version is None else Put(path, data, version))
        self.what.append(what)

    def drop(self, path: str, what: str) -> None:
        """Delete a node."""
        self.operations.append(Delete(path))
        self.what.append(what)

    def intent(self, intent: Intent, version: int | None) -> None:
        """Write an intent."""
        self.put(paths.intent(intent.name), encode(intent), version, intent.name)


def write(tree: Tree, plan: Callable[[int], Draft[T]], clock: Clock, *, is_import: bool = False, least: int = 0) -> T:
    """Do one write of intent and return its result.

    `plan` is given the number that the write will have, reads what it needs and says what is to change; it is asked
    again when somebody else wrote in between. What it raises, `write` raises. A draft without operations writes
    nothing, but for an import: after that (its number is at least `least`) every host reads all.

    Raises `CoordinatorUnavailable` when there is no answer (the write may have been done: all verbs may be repeated),
    or when others were faster too often.
    """
    token = uuid.uuid4().hex
    tree.sync()  # what is so already is not written: that must be true now, not on a server that lags
    unheard: Draft[T] | None = None
    for attempt in range(_TRIES):
        cluster = paths.check(tree, None)
        node = tree.get(paths.REVISION)
        if node is None:
            raise Corrupt(f"{paths.REVISION} is missing in ZooKeeper", hint="envmgr cluster import puts an export back")
        revision = decode(Revision, node.data, paths.REVISION)
        if unheard is not None and any(change.token == token for change in revision.changes):
            return unheard.result
        number = max(revision.number + 1, least)
        draft = plan(number)
        if not draft.operations and not is_import:
            return draft.result
        change = Change(revision=number, what=tuple(dict.fromkeys(draft.what)), token=token)
        following = Revision(
            number=number,
            changes=(change,) if is_import else (*revision.changes, change)[-KEPT_CHANGES:],
            cluster=draft.uuid or cluster.uuid,
            imported=number if is_import else revision.imported,
        )
        try:
            tree.write([Put(paths.REVISION, encode(following), node.version), *draft.operations])
        except (BadVersion, NodeExists, NoNode):
            # Another one was faster, or this server is behind: reading again must see what the conflict was with.
            clock.sleep(random.uniform(0, min(_LONGEST_PAUSE_S, 0.01 * (attempt + 1))))  # noqa: S311 - no secret
            tree.sync()
        except CoordinatorUnavailable as error:
            if not error.fields.get("is_unknown"):
                raise
            # Sent, but the answer was lost. Written twice it cannot be, as the revision's version is compared: so it
            # is enough to look for our token, and to try again if it is not there.
            unheard = draft
            tree.sync()
        else:
            return draft.result
    raise CoordinatorUnavailable(
        f"the cluster's intent was changed by others {_TRIES} times while this change was tried",
        hint="nothing was changed; try again",
    )
