"""What the cluster wants of one host, read again and again at the cost of what changed.

`Wanted.refresh` costs one look at a stamp when nothing changed; else it reads what the changes since then name; else
(the first time, too far behind, after an import) everything.

What a host remembers of the tree beyond its own life is `Seen`; the agent keeps it. With it the host notices

* an emptied tree, or another cluster's: `ClusterTreeRefused`;
* a restored old tree: its number went back, or another change has the number that the host has seen. What was declared
  since the backup is lost then, so an ``absent`` may be out of date: `Wanted.may_remove` is false, and stays so until
  an administrator imports an intent, by which he says that this is what he wants.

A tree that does not name an environment says nothing of it: only ``absent`` takes one away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from envmgr import names
from envmgr.cluster.writing import CLUSTER
from envmgr.coordination.zookeeper import tree as paths
from envmgr.errors import ClusterTreeRefused, Corrupt
from envmgr.names import Alias, EnvName
from envmgr.wire.tree import Cluster, Intent, Revision, decode

if TYPE_CHECKING:
    from envmgr.coordination.zookeeper.nodes import Stamp, Tree

_ALIAS = "aliases/"
_CORDON = "cordons/"
RESTORED = "ZooKeeper's tree is older than what this host has seen: it was restored, and nothing is removed"
RESTORED_HINT = (
    "see what is declared (envmgr cluster status), put right what is out of date, then have it taken as it is: "
    "envmgr cluster export FILE, envmgr cluster import --replace FILE"
)


@dataclass(frozen=True, slots=True)
class Seen:
    """The newest that a host has seen of a tree; to be kept on its disk. `token` is of that revision's change."""

    uuid: str
    revision: int
    token: str = ""
    is_restored: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the cluster wants, as of `revision`, as one host reads it.

    `cluster` is ``None`` until a tree was read. `intents` are all of the cluster; `damaged` says of which the node
    cannot be read (what was known of them before stays).
    """

    host: str
    labels: Mapping[str, str] = field(default_factory=dict)
    seen: Seen | None = None
    cluster: Cluster | None = None
    revision: int = -1
    token: str = ""
    stamp: Stamp | None = None
    intents: Mapping[EnvName, Intent] = field(default_factory=dict)
    aliases: Mapping[Alias, EnvName] = field(default_factory=dict)
    is_cordoned: bool = False
    damaged: Mapping[str, str] = field(default_factory=dict)

    @property
    def may_remove(self) -> bool:
        """Whether an ``absent`` may be obeyed."""
        return self.cluster is not None and not (self.seen and self.seen.is_restored)

    @property
    def problem(self) -> str | None:
        """What is wrong with the tree, for the host's status."""
        if self.seen is not None and self.seen.is_restored:
            return f"{RESTORED}; {RESTORED_HINT}"
        return "; ".join(self.damaged.values()) or None

    def present(self) -> dict[EnvName, Intent]:
        """Return what this host is to have."""
        return {
            name: intent
            for name, intent in self.intents.items()
            if intent.state == "present" and intent.selector.matches(self.host, self.labels)
        }

    def absent(self) -> dict[EnvName, Intent]:
        """Return what is to go wherever the cluster brought it; whom an intent once selected, it does not know."""
        return {name: intent for name, intent in self.intents.items() if intent.state == "absent"}

    def refresh(self, tree: Tree, *, watch: Callable[[], None] | None = None) -> Wanted:
        """Return what is wanted now; the same object when nothing changed. `watch` is of the revision.

        Raises `ClusterTreeRefused`, `CoordinatorUnavailable`; then nothing is known, and nothing is to be done.
        """
        if self.cluster is not None and tree.stamp(paths.REVISION, watch=watch) == self.stamp:
            return self  # the node itself holds the last changes, which are many times as much
        revision, stamp = _revision(tree, watch)
        if revision is not None and self._is_known(revision):
            return self
        if self.seen is not None and (revision is None or revision.number < self.seen.revision):
            # A server that is behind looks like an emptied or a restored tree, until it has caught up.
            tree.sync()
            revision, stamp = _revision(tree, None)
            if revision is not None and self._is_known(revision):
                return self
        cluster = self._cluster(tree, revision)
        if cluster is None or revision is None:
            return self
        what = self._changed(revision)
        token = revision.changes[-1].token if revision.changes else ""
        refreshed = replace(
            self,
            cluster=cluster,
            seen=_seen(self.seen, cluster, revision, token),
            revision=revision.number,
            token=token,
            stamp=stamp,
        )
        return _read_all(refreshed, tree) if what is None else _read(refreshed, tree, what)

    def _is_known(self, revision: Revision) -> bool:
        token = revision.changes[-1].token if revision.changes else ""
        return (
            self.cluster is not None
            and (revision.number, token) == (self.revision, self.token)
            and revision.cluster in ("", self.cluster.uuid)
        )

    def _cluster(self, tree: Tree, revision: Revision | None) -> Cluster | None:
        """Return the cluster of a tree that is this host's, ``None`` if there is none yet."""
        what = None if revision is None else self._changed(revision)
        is_same = self.cluster is not None and revision is not None and revision.cluster == self.cluster.uuid
        if is_same and what is not None and CLUSTER not in what:
            return self.cluster
        try:
            return paths.check(tree, None if self.seen is None else self.seen.uuid)
        except ClusterTreeRefused as error:
            if error.fields.get("reason") == "missing":
                return None
            raise

    def _changed(self, revision: Revision) -> frozenset[str] | None:
        """Return what changed since this was read, ``None`` if the revision does not reach back so far."""
        if self.cluster is None or revision.number < self.revision or revision.imported > self.revision:
            return None
        known = {change.revision: change for change in revision.changes}
        if self.revision in known and known[self.revision].token != self.token:
            return None
        missed = range(self.revision + 1, revision.number + 1)
        if not all(number in known for number in missed):
            return None
        if not missed:  # the same number by another write, of which nothing is known
            return None
        return frozenset(word for number in missed for word in known[number].what)


def _revision(tree: Tree, watch: Callable[[], None] | None) -> tuple[Revision | None, Stamp | None]:
    node = tree.get(paths.REVISION, watch=watch)
    return (None, None) if node is None else (decode(Revision, node.data, paths.REVISION), node.stamp)


def _seen(seen: Seen | None, cluster: Cluster, revision: Revision, token: str) -> Seen:
    if seen is not None and revision.imported <= seen.revision:
        tokens = {change.revision: change.token for change in revision.changes}
        is_other = tokens.get(seen.revision, seen.token) != seen.token
        if seen.is_restored or revision.number < seen.revision or is_other:
            return replace(seen, is_restored=True)
    return Seen(cluster.uuid, revision.number, token)


# ------------------------------------------------------------------------------------------------------------ reading


def _read_all(wanted: Wanted, tree: Tree) -> Wanted:
    declared = tree.children(paths.ENVS)
    kept = {name: intent for name, intent in wanted.intents.items() if name in declared}  # if one proves damaged
    aliases = (_ALIAS + alias for alias in tree.children(paths.ALIASES))
    bare = replace(wanted, intents=kept, aliases={}, is_cordoned=False, damaged={})
    return _read(bare, tree, [*declared, *aliases, _CORDON + wanted.host])


def _read(wanted: Wanted, tree: Tree, what: Iterable[str]) -> Wanted:
    intents, aliases, damaged = dict(wanted.intents), dict(wanted.aliases), dict(wanted.damaged)
    is_cordoned = wanted.is_cordoned
    for word in what:
        if word.startswith(_ALIAS):
            _read_alias(aliases, tree, word.removeprefix(_ALIAS))
        elif word == _CORDON + wanted.host:
            is_cordoned = tree.get(paths.cordon(wanted.host)) is not None
        elif names.is_name(word):
            _read_intent(intents, damaged, tree, EnvName(word))
    return replace(wanted, intents=intents, aliases=aliases, is_cordoned=is_cordoned, damaged=damaged)


def _read_alias(aliases: dict[Alias, EnvName], tree: Tree, word: str) -> None:
    node = tree.get(paths.alias(word))
    name = "" if node is None else node.data.decode("ascii", "replace")
    if names.is_alias(word) and names.is_name(name):
        aliases[Alias(word)] = EnvName(name)
    else:
        aliases.pop(Alias(word), None)


def _read_intent(intents: dict[EnvName, Intent], damaged: dict[str, str], tree: Tree, name: EnvName) -> None:
    damaged.pop(name, None)
    node = tree.get(paths.intent(name))
    if node is None:
        intents.pop(name, None)
        return
    try:
        intents[name] = intent_of(name, node.data)
    except Corrupt as error:
        damaged[name] = error.message


def intent_of(name: str, data: bytes) -> Intent:
    """Read the intent at the node of `name`; raises `Corrupt`, also where it is another environment's."""
    intent = decode(Intent, data, paths.intent(name))
    if intent.name != name:
        raise Corrupt(f"the node {paths.intent(name)} in ZooKeeper is damaged: it is the intent of another environment")
    return intent
