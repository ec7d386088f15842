"""What the daemon does for the cluster's administrators: their verbs, with roles, and told to the observer.

Everybody may look; only administrators change what the cluster wants. Every method takes the caller first, may block,
and raises `EnvmgrError`: `UsageError` on a host that is in no cluster, `CoordinatorUnavailable` while ZooKeeper does
not answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from envmgr import codec, names
from envmgr.daemon import documents
from envmgr.daemon.roles import only_admin
from envmgr.daemon.waiters import Waiters
from envmgr.errors import UsageError
from envmgr.wire import cluster as wire
from envmgr.wire.socket import Aliases, AliasRequest
from envmgr.wire.tree import Cluster, Selector

if TYPE_CHECKING:
    from envmgr.daemon.telling import Teller
    from envmgr.model import Caller
    from envmgr.ports import Administration, Clock

Administrations = Callable[[str], "Administration"]
"""Returns the administration for what a user does, who is named in the intent."""


def no_cluster(_by: str) -> Administration:
    """Be the administration of a host that is in no cluster."""
    raise UsageError(
        "this host is in no cluster", hint="setting zookeeper names the servers of the cluster's ZooKeeper"
    )


class ClusterService:
    """See the module."""

    def __init__(self, teller: Teller, clock: Clock, administration: Administrations = no_cluster) -> None:
        self._teller = teller
        self._administration = administration
        self._waiters = Waiters(clock)

    # --------------------------------------------------------------------------------------------------------- to look

    def status(self, caller: Caller) -> wire.ClusterStatus:
        """Return the cluster at one moment."""
        return self._administration(caller.user).status()

    def show(self, caller: Caller, word: str, waiter: str = "") -> wire.DeclaredEnvironment:
        """Return one declared environment; `waiter` is the word of one who looks again and again, until it is made."""
        administration = self._administration(caller.user)
        name = administration.resolve(word)
        return self._waiters.look(waiter, name, administration) if waiter else administration.show(name)

    def why(self, caller: Caller, word: str, host: str) -> wire.Row:
        """Return how one environment does on one host."""
        administration = self._administration(caller.user)
        return administration.why(administration.resolve(word), host)

    def hosts(self, caller: Caller) -> wire.Hosts:
        """Return the hosts that are known."""
        return wire.Hosts(hosts=self._administration(caller.user).hosts())

    def aliases(self, caller: Caller) -> Aliases:
        """Return the aliases of the cluster."""
        return Aliases(aliases=dict(self._administration(caller.user).aliases().items()))

    def cluster(self, caller: Caller) -> Cluster:
        """Return who the cluster is, and what all its hosts share."""
        return self._administration(caller.user).cluster()

    def export(self, caller: Caller) -> wire.Exported:
        """Return the whole intent."""
        return self._administration(caller.user).export()

    # ------------------------------------------------------------------------------------------------------- to change

    def create(self, caller: Caller, request: wire.DeclareRequest) -> wire.DeclaredEnvironment:
        """Declare an environment."""
        with self._teller.told("cluster create", caller, None) as telling:
            only_admin(caller, "declares an environment")
            administration = self._administration(caller.user)
            spec = documents.parse(request.spec)
            telling.name = spec.name
            if request.alias is not None:
                names.alias(request.alias)
            declaration = wire.Declaration(
                spec=json.loads(codec.dump(spec)),
                selector=Selector(hosts=request.hosts, labels=request.labels),
                alias=request.alias,
                move_alias=request.move_alias,
                max_parallel=request.max_parallel,
                percent_parallel=request.percent_parallel,
            )
            found = administration.create(declaration)
            telling.facts["generation"] = found.generation
            return found

    def remove(self, caller: Caller, word: str) -> wire.DeclaredEnvironment:
        """Unpublish an environment everywhere."""
        with self._teller.told("cluster remove", caller, word) as telling:
            only_admin(caller, "removes an environment from the cluster")
            administration = self._administration(caller.user)
            name = telling.name = administration.resolve(word)
            return administration.remove(name)

    def relock(self, caller: Caller, word: str) -> wire.DeclaredEnvironment:
        """Have an environment solved again, for all its hosts."""
        with self._teller.told("cluster relock", caller, word) as telling:
            only_admin(caller, "relocks an environment of the cluster")
            administration = self._administration(caller.user)
            name = telling.name = administration.resolve(word)
            return administration.relock(name)

    def retry(self, caller: Caller, word: str, request: wire.RetryRequest) -> wire.DeclaredEnvironment:
        """Have what failed tried again at once."""
        with self._teller.told("cluster retry", caller, word, of_host=request.host) as telling:
            only_admin(caller, "has hosts of the cluster try again")
            administration = self._administration(caller.user)
            name = telling.name = administration.resolve(word)
            return administration.retry(name, request.host)

    def heal(self, caller: Caller) -> Cluster:
        """Have the hosts bring what drifted back in line."""
        with self._teller.told("cluster heal", caller, None):
            only_admin(caller, "heals the cluster")
            administration = self._administration(caller.user)
            return administration.heal()

    def cordon(self, caller: Caller, host: str, *, is_cordoned: bool) -> wire.Hosts:
        """Let a host begin nothing new, or begin again."""
        with self._teller.told("cluster cordon" if is_cordoned else "cluster uncordon", caller, None, of_host=host):
            only_admin(caller, "cordons a host")
            administration = self._administration(caller.user)
            administration.cordon(host, is_cordoned=is_cordoned)
            return wire.Hosts(hosts=administration.hosts())

    def forget(self, caller: Caller, host: str) -> wire.Hosts:
        """Wait for a host no longer that has gone for ever."""
        with self._teller.told("cluster forget", caller, None, of_host=host):
            only_admin(caller, "has a host forgotten")
            administration = self._administration(caller.user)
            administration.forget(host)
            return wire.Hosts(hosts=administration.hosts())

    def set_alias(self, caller: Caller, alias: str, request: AliasRequest) -> Aliases:
        """Let an alias of the cluster stand for a declared environment."""
        with self._teller.told("cluster alias", caller, request.environment, alias=alias) as telling:
            only_admin(caller, "sets an alias of the cluster")
            checked = names.alias(alias)
            administration = self._administration(caller.user)
            name = telling.name = administration.resolve(request.environment)
            administration.set_alias(checked, name, move=request.move)
            return Aliases(aliases=dict(administration.aliases().items()))

    def remove_alias(self, caller: Caller, alias: str) -> Aliases:
        """Drop an alias of the cluster."""
        with self._teller.told("cluster unalias", caller, None, alias=alias):
            only_admin(caller, "drops an alias of the cluster")
            checked = names.alias(alias)
            administration = self._administration(caller.user)
            administration.remove_alias(checked)
            return Aliases(aliases=dict(administration.aliases().items()))

    def change_settings(self, caller: Caller, request: wire.ClusterSettingsRequest) -> Cluster:
        """Change what all hosts share."""
        with self._teller.told("cluster settings", caller, None) as telling:
            telling.facts |= {"settings": sorted(request.settings), "classes": sorted(request.classes)}
            only_admin(caller, "changes the cluster's settings")
            administration = self._administration(caller.user)
            return administration.change_settings(
                request.settings, request.classes, upgrade_format=request.upgrade_format
            )

    def import_(self, caller: Caller, request: wire.ImportRequest) -> Cluster:
        """Put an exported intent into the cluster."""
        with self._teller.told("cluster import", caller, None, replace=request.replace):
            only_admin(caller, "imports the cluster's intent")
            administration = self._administration(caller.user)
            return administration.import_(exported(request.document), replace=request.replace)


def exported(text: str) -> wire.Exported:
    """Read the JSON of an `Exported`; raises `UsageError`."""
    try:
        return codec.load(wire.Exported, json.loads(text))
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"the document is no exported intent: {error}", hint="envmgr cluster export writes one"
        ) from error
