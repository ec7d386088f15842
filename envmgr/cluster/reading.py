"""What administrators read of the tree: intents, aliases, hosts, and all of that put together."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from envmgr import names
from envmgr.cluster import lockfiles
from envmgr.cluster.absent import sweep_absent
from envmgr.cluster.intent import intent_of
from envmgr.cluster.statuses import Known, Statuses, at_once, host_info, rows
from envmgr.coordination.zookeeper import tree as paths
from envmgr.errors import Corrupt, EnvironmentNotFound, HostUnknown
from envmgr.names import Alias, EnvName
from envmgr.wire.cluster import DeclaredEnvironment, GenerationInfo, HostInfo, Row
from envmgr.wire.tree import Host, Intent, decode

if TYPE_CHECKING:
    from envmgr.coordination.zookeeper.nodes import Tree
    from envmgr.ports import Clock

_BRIEFEST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 2.0
_HOSTS_PER_S = 1000
"""Of so many hosts what they say in a second is looked at together."""


# -------------------------------------------------------------------------------------------------------- environments


def find(tree: Tree, name: str) -> tuple[Intent | None, int | None]:
    """Return an intent and its node's version, ``None`` for one that is not there."""
    node = tree.get(paths.intent(name))
    return (None, None) if node is None else (intent_of(name, node.data), node.version)


def declared(tree: Tree, name: EnvName) -> tuple[Intent, int | None]:
    """Do as `find`; raises `EnvironmentNotFound`."""
    intent, version = find(tree, name)
    if intent is None:
        raise EnvironmentNotFound(
            f"{name} is not declared in the cluster", hint="envmgr cluster create FILE declares it"
        )
    return intent, version


def present(tree: Tree, name: EnvName) -> tuple[Intent, int | None]:
    """Do as `declared`, for one that was not removed."""
    intent, version = declared(tree, name)
    if intent.state == "absent":
        raise EnvironmentNotFound(
            f"{name} was removed from the cluster; not every host has acknowledged it yet",
            hint="envmgr cluster create FILE declares it again",
        )
    return intent, version


def intents(tree: Tree, *, is_strict: bool = True) -> tuple[Intent, ...]:
    """Return all that is declared, by name.

    Raises `Corrupt` for a node that cannot be read, or leaves it out: the hosts tell of it in their own words.
    """
    found = []
    for name in filter(names.is_name, tree.children(paths.ENVS)):
        try:
            intent, _ = find(tree, name)
        except Corrupt:
            if is_strict:
                raise
            continue
        found += [] if intent is None else [intent]
    return tuple(found)


def target(tree: Tree, alias: Alias) -> EnvName | None:
    """Return what an alias stands for."""
    node = tree.get(paths.alias(alias))
    name = "" if node is None else node.data.decode("ascii", "replace")
    return EnvName(name) if names.is_name(name) else None


def aliases(tree: Tree) -> dict[Alias, EnvName]:
    """Return alias → name."""
    found = ((Alias(word), target(tree, Alias(word))) for word in tree.children(paths.ALIASES))
    return {alias: name for alias, name in found if name is not None}


def environment(
    intent: Intent,
    rows_: tuple[Row, ...],
    aliases_: Mapping[Alias, EnvName],
    generations: tuple[GenerationInfo, ...] = (),
) -> DeclaredEnvironment:
    """Put together what is told of one environment."""
    return DeclaredEnvironment(
        name=intent.name,
        state=intent.state,
        generation=intent.generation,
        label=intent.label,
        aliases=tuple(sorted(alias for alias, name in aliases_.items() if name == intent.name)),
        selector=intent.selector,
        lock_generation=intent.lock_generation,
        max_parallel=intent.max_parallel,
        declared_by=intent.declared_by,
        declared_at=intent.declared_at,
        rows=rows_,
        lockfiles=generations,
    )


def told(tree: Tree, clock: Clock, intent: Intent, known: Mapping[str, Known] | None = None) -> DeclaredEnvironment:
    """Return all there is to say of one environment."""
    hosts = Statuses(tree, clock).refresh() if known is None else known
    return environment(intent, rows(intent, hosts), aliases(tree), lockfiles.generations(tree, intent.name))


class Watcher:
    """One environment, looked at again and again: only the hosts that have said something new are read again.

    Its aliases and lockfiles are as they were when it began. How far builds are is read only for `has_progress`.

    Of an environment that was removed, the intent is swept as soon as every host has acknowledged it.
    """

    def __init__(self, tree: Tree, clock: Clock, name: EnvName, *, has_progress: bool = False) -> None:
        self._tree = tree
        self._clock = clock
        self._event = threading.Event()
        self._statuses = Statuses(tree, clock, self._event, has_progress=has_progress)
        self._pause_s = _BRIEFEST_PAUSE_S
        self._intent, _ = declared(tree, name)
        self._aliases = aliases(tree)
        self._lockfiles = lockfiles.generations(tree, name)

    def show(self) -> DeclaredEnvironment:
        """Return it as it is now."""
        self._event.clear()
        intent, _ = find(self._tree, self._intent.name)
        if intent is None:
            if self._intent.state == "present":
                declared(self._tree, EnvName(self._intent.name))
            return environment(self._intent, (), {})
        known = self._statuses.refresh()
        self._pause_s = min(_LONGEST_PAUSE_S, max(_BRIEFEST_PAUSE_S, len(known) / _HOSTS_PER_S))
        self._intent = intent
        if intent.state == "absent" and all(host.has_acknowledged(intent) for host in known.values()):
            sweep_absent(self._tree, self._clock, [EnvName(intent.name)])
        told_aliases = {} if intent.state == "absent" else self._aliases
        return environment(intent, rows(intent, known), told_aliases, self._lockfiles)

    def wait(self, timeout_s: float) -> None:
        """Wait until a host says something, at most so long; at least a moment, in which many may say something."""
        self._clock.sleep(min(timeout_s, self._pause_s))
        left_s = max(0.0, timeout_s - self._pause_s)
        due_s = self._statuses.progress_in_s
        self._event.wait(left_s if due_s is None else min(left_s, due_s))


# --------------------------------------------------------------------------------------------------------------- hosts


def known_host(tree: Tree, clock: Clock, host: str) -> Known:
    """Return one host; raises `HostUnknown`."""
    found = Statuses(tree, clock).one(host) if is_segment(host) else None
    if found is None:
        raise HostUnknown(f"no host {host!r} is or was in the cluster", hint="envmgr cluster hosts lists them")
    return found


def is_segment(host: str) -> bool:
    """Tell whether a host's name may stand in a path."""
    return bool(host) and "/" not in host and host not in (".", "..") and host.isprintable()


def host_infos(tree: Tree, known: Mapping[str, Known]) -> tuple[HostInfo, ...]:
    """Return what is told of the hosts; reads what those that live say of themselves."""
    live = at_once(partial(_live, tree), [host.host for host in known.values() if host.is_live])
    return tuple(host_info(host, live.get(host.host)) for host in known.values())


def _live(tree: Tree, host: str) -> Host | None:
    """Return what a host says of itself; nothing where that cannot be read, so that the others can be told of."""
    node = tree.get(paths.host(host))
    try:
        return None if node is None else decode(Host, node.data, paths.host(host))
    except Corrupt:
        return None
