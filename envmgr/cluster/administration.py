"""The administrator's verbs, straight on the cluster's tree; `envmgr.remote.administration` is the same by a daemon.

Every verb that changes something is one write of intent (`envmgr.cluster.writing`) and may be repeated: what is so
already is not written again.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from envmgr import names
from envmgr.cluster import lockfiles, reading, shared, transfer
from envmgr.cluster.absent import imported_at, sweep_absent
from envmgr.cluster.declaring import check_size, checked_spec, is_same, with_declaration
from envmgr.cluster.rollout import Bound
from envmgr.cluster.statuses import Statuses, row, rows
from envmgr.cluster.writing import CLUSTER, Draft, write
from envmgr.coordination.zookeeper import tree as paths
from envmgr.coordination.zookeeper.nodes import Create, Delete, NodeExists, NoNode
from envmgr.errors import AliasTaken, CoordinatorUnavailable, EnvironmentNotFound, UsageError
from envmgr.names import Alias, EnvName
from envmgr.wire.cluster import ClusterStatus, Declaration, DeclaredEnvironment, Exported, HostInfo, Row
from envmgr.wire.tree import FORMAT, Cluster, Intent, Revision, decode, encode

if TYPE_CHECKING:
    from envmgr.coordination.zookeeper.nodes import Tree
    from envmgr.ports import Clock

T = TypeVar("T")

_ALL = "*"


class Administration:
    """See the module; `envmgr.ports.Administration` is what it promises. `by` is who administers, for the records.

    `uuid_of` tells whose tree it has to be, if that is known: of another one, or an emptied one, nothing but an import
    is done. Else a `create` on a host of the cluster would make a second one, which all its hosts refuse.
    """

    def __init__(self, tree: Tree, *, by: str, clock: Clock, uuid_of: Callable[[], str | None] = lambda: None) -> None:
        self._tree = tree
        self._by = by
        self._clock = clock
        self._uuid_of = uuid_of

    # --------------------------------------------------------------------------------------------------- environments

    def create(self, declaration: Declaration) -> DeclaredEnvironment:
        """Declare an environment, or change for which hosts and how fast; makes the tree if there is none.

        Raises `InvalidSpec`, `AliasTaken`, `UsageError`, `NameCollision`.
        """
        spec = checked_spec(declaration.spec)
        alias = None if declaration.alias is None else names.alias(declaration.alias)
        self._found()
        at_most = declaration.max_parallel or self._parallel(declaration)

        def plan(number: int) -> Draft[Intent]:
            old, version = reading.find(self._tree, spec.name)
            new = with_declaration(old, spec, declaration, at_most)
            draft = Draft(new if old is None or not is_same(old, new) else old)
            if draft.result is new:
                draft.result = dataclasses.replace(
                    new, generation=number, declared_by=self._by, declared_at=self._clock.time()
                )
                check_size(draft.result)
                draft.intent(draft.result, version)
            if alias is not None:
                self._plan_alias(draft, alias, spec.name, may_move=declaration.move_alias)
            return draft

        return self._told(self._write(plan))

    def remove(self, name: EnvName) -> DeclaredEnvironment:
        """Take an environment from every host, and its aliases with it."""

        def plan(number: int) -> Draft[Intent]:
            old, version = reading.declared(self._tree, name)
            if old.state == "absent" and old.generation > imported_at(self._tree):
                return Draft(old)
            draft = Draft(dataclasses.replace(old, state="absent", generation=number, **self._mark()))
            draft.intent(draft.result, version)
            for alias, target in reading.aliases(self._tree).items():
                if target == name:
                    draft.drop(paths.alias(alias), f"aliases/{alias}")
            return draft

        intent = self._write(plan)
        self._sweep((name,))
        return self._told(intent)

    def relock(self, name: EnvName) -> DeclaredEnvironment:
        """Have an environment solved again, once for all hosts of a machine class."""

        def plan(number: int) -> Draft[Intent]:
            old, version = reading.present(self._tree, name)
            following = 1 + max((info.generation for info in lockfiles.generations(self._tree, name)), default=0)
            if following <= old.lock_generation:
                return Draft(old)
            draft = Draft(
                dataclasses.replace(old, lock_generation=following, generation=number, **self._mark()),
            )
            draft.intent(draft.result, version)
            return draft

        return self._told(self._write(plan))

    def retry(self, name: EnvName, host: str | None = None) -> DeclaredEnvironment:
        """Have what failed tried again at once, on one host or on all; solves that failed are forgotten."""
        if host is not None:
            self._check()
            reading.known_host(self._tree, self._clock, host)

        def plan(number: int) -> Draft[Intent]:
            old, version = reading.declared(self._tree, name)
            retries = dict(old.retries)
            retries[host or _ALL] = retries.get(host or _ALL, 0) + 1
            draft = Draft(dataclasses.replace(old, retries=retries, generation=number))
            draft.intent(draft.result, version)
            for info in lockfiles.generations(self._tree, name):
                if info.error is not None:
                    draft.operations.append(Delete(paths.failure(name, info.machine_class, info.generation)))
            return draft

        return self._told(self._write(plan))

    def show(self, name: EnvName) -> DeclaredEnvironment:
        """Return one environment with rows and lockfiles; raises `EnvironmentNotFound`."""
        self._check()
        return reading.told(self._tree, self._clock, reading.declared(self._tree, name)[0])

    def why(self, name: EnvName, host: str) -> Row:
        """Return what there is to say of one environment on one host; raises `HostUnknown`."""
        self._check()
        intent, _ = reading.declared(self._tree, name)
        known = reading.known_host(self._tree, self._clock, host)
        found = row(intent, host, known)
        if intent.selector.matches(host, known.labels) or name in known.environments:
            return found
        message = "it is not declared for this host; whether it has one of its own, only the host knows"
        return dataclasses.replace(found, state="absent", message=message)

    def status(self) -> ClusterStatus:
        """Return the cluster at one moment."""
        cluster = self._check()
        node = self._tree.get(paths.REVISION)
        number = 0 if node is None else decode(Revision, node.data, paths.REVISION).number
        intents = reading.intents(self._tree, is_strict=False)
        aliases = reading.aliases(self._tree)
        known = Statuses(self._tree, self._clock).refresh()
        return ClusterStatus(
            uuid=cluster.uuid,
            revision=number,
            environments=tuple(reading.environment(intent, rows(intent, known), aliases) for intent in intents),
            hosts=reading.host_infos(self._tree, known),
        )

    @contextlib.contextmanager
    def watching(self, name: EnvName, *, has_progress: bool = False) -> Iterator[reading.Watcher]:
        """Follow one environment for the length of a block; see `envmgr.cluster.rollout.wait`."""
        self._check()
        yield reading.Watcher(self._tree, self._clock, name, has_progress=has_progress)

    # ---------------------------------------------------------------------------------------------------------- hosts

    def hosts(self) -> tuple[HostInfo, ...]:
        """Return the hosts that are known."""
        self._check()
        return reading.host_infos(self._tree, Statuses(self._tree, self._clock).refresh())

    def heal(self) -> Cluster:
        """Have every host bring back in line what it built from another lockfile than the cluster's."""
        return self._change_cluster(lambda cluster: dataclasses.replace(cluster, heal=cluster.heal + 1))

    def cordon(self, host: str, *, is_cordoned: bool) -> None:
        """Let a host begin nothing new, or begin again; raises `HostUnknown`."""
        self._check()
        reading.known_host(self._tree, self._clock, host)
        self._cordon(host, is_cordoned=is_cordoned)

    def forget(self, host: str) -> None:
        """Wait no longer for a host that is gone for ever; raises `HostUnknown`, `UsageError` for one that lives."""
        self._check()
        reading.known_host(self._tree, self._clock, host)
        life, status = paths.host(host), paths.status(host)
        lives = UsageError(f"the host {host} lives", hint="stop its daemon first", host=host)
        if self._tree.get(life) is not None:
            raise lives
        # Making its sign of life and taking it away again in one transaction fails if it comes back at this moment.
        is_known = self._tree.get(status) is not None
        try:
            self._tree.write([Create(life), Delete(life), *([Delete(status)] if is_known else [])])
        except NodeExists:
            raise lives from None
        except NoNode:
            pass  # somebody else was faster
        self._cordon(host, is_cordoned=False)
        absent = (
            EnvName(intent.name) for intent in reading.intents(self._tree, is_strict=False) if intent.state == "absent"
        )
        self._sweep(absent)

    # ---------------------------------------------------------------------------------------- what the hosts share

    def resolve(self, word: str) -> EnvName:
        """Return the name that `word`, a name or an alias of the cluster, stands for; raises `EnvironmentNotFound`."""
        if names.is_name(word):
            return EnvName(word)
        name = reading.target(self._tree, names.alias(word))
        if name is None:
            self._check()
            raise EnvironmentNotFound(
                f"the cluster has no alias {word!r}", hint="envmgr cluster alias list shows what is there"
            )
        return name

    def aliases(self) -> dict[Alias, EnvName]:
        """Return alias → name."""
        self._check()
        return reading.aliases(self._tree)

    def set_alias(self, alias: Alias, name: EnvName, *, move: bool = False) -> None:
        """Let an alias stand for a declared environment; raises `AliasTaken` unless `move`."""
        names.alias(alias)

        def plan(_number: int) -> Draft[None]:
            reading.present(self._tree, name)
            draft: Draft[None] = Draft(None)
            self._plan_alias(draft, alias, name, may_move=move)
            return draft

        self._write(plan)

    def remove_alias(self, alias: Alias) -> EnvName:
        """Drop an alias, and return what it stood for; raises `EnvironmentNotFound`."""

        def plan(_number: int) -> Draft[EnvName]:
            draft = Draft(self.resolve(names.alias(alias)))
            draft.drop(paths.alias(alias), f"aliases/{alias}")
            return draft

        return self._write(plan)

    def cluster(self) -> Cluster:
        """Return who the cluster is, and what all its hosts share."""
        return self._check()

    def change_settings(
        self,
        changes: Mapping[str, object | None],
        classes: Mapping[str, Mapping[str, str] | None] | None = None,
        *,
        upgrade_format: bool = False,
    ) -> Cluster:
        """Change cluster-wide settings and machine classes; ``None`` takes one away. Raises `UsageError`.

        A value is as in a settings file (a list, a table, …), or the text that an environment variable would hold.
        """
        self._found()
        return self._change_cluster(
            lambda cluster: dataclasses.replace(
                cluster,
                settings=shared.merged_settings(cluster.settings, changes),
                classes=shared.merged_classes(cluster.classes, classes or {}),
                format=FORMAT if upgrade_format else cluster.format,
            )
        )

    def export(self) -> Exported:
        """Return the whole intent, with the lockfiles in force."""
        self._check()
        return transfer.export(self._tree, self._clock)

    def import_(self, document: Exported, *, replace: bool = False) -> Cluster:
        """Put an exported intent into the tree; see `envmgr.cluster.transfer`."""
        return transfer.import_(self._tree, self._clock, document, replace=replace)

    # -------------------------------------------------------------------------------------------------------- writing

    def _check(self) -> Cluster:
        return paths.check(self._tree, self._uuid_of())

    def _told(self, intent: Intent) -> DeclaredEnvironment:
        """Return all there is to say of what was just written; `CoordinatorUnavailable` says that it was."""
        try:
            return reading.told(self._tree, self._clock, intent)
        except CoordinatorUnavailable as error:
            raise CoordinatorUnavailable(
                f"what is wanted of {intent.name} is written down, but how its hosts do could not be read: "
                f"{error.message}",
                hint=f"envmgr cluster show {intent.name} tells how it goes on",
                name=intent.name,
            ) from error

    def _sweep(self, absent: Iterable[EnvName]) -> None:
        """Delete what is ``absent`` everywhere, if ZooKeeper has the time: else a host does it later."""
        with contextlib.suppress(CoordinatorUnavailable):
            sweep_absent(self._tree, self._clock, absent)

    def _write(self, plan: Callable[[int], Draft[T]]) -> T:
        if self._uuid_of() is not None:  # that there is a cluster, `write` sees by itself
            self._check()
        return write(self._tree, plan, self._clock)

    def _found(self) -> Cluster:
        """Return the cluster, which is made if there is none, and none was known."""
        return paths.found(self._tree) if self._uuid_of() is None else self._check()

    def _change_cluster(self, change: Callable[[Cluster], Cluster]) -> Cluster:
        def plan(_number: int) -> Draft[Cluster]:
            old = paths.check(self._tree, None)
            draft = Draft(change(old))
            if draft.result != old:
                draft.put(paths.CLUSTER, encode(draft.result), -1, CLUSTER)
            return draft

        return self._write(plan)

    def _cordon(self, host: str, *, is_cordoned: bool) -> None:
        path, what = paths.cordon(host), f"cordons/{host}"

        def plan(_number: int) -> Draft[None]:
            draft: Draft[None] = Draft(None)
            is_so = self._tree.get(path) is not None
            if is_cordoned and not is_so:
                draft.put(path, b"", None, what)
            elif is_so and not is_cordoned:
                draft.drop(path, what)
            return draft

        self._write(plan)

    def _plan_alias(self, draft: Draft[T], alias: Alias, name: EnvName, *, may_move: bool) -> None:
        taken = reading.target(self._tree, alias)
        if taken == name:
            return
        if taken is not None and not may_move:
            raise AliasTaken(
                f"the cluster's alias {alias} stands for {taken}, not for {name}",
                hint="envmgr cluster alias set --move, or create with --move-alias, lets it stand for the other",
                alias=alias,
                name=taken,
            )
        node = self._tree.get(paths.alias(alias))
        draft.put(paths.alias(alias), name.encode("ascii"), None if node is None else node.version, f"aliases/{alias}")

    def _mark(self) -> dict[str, Any]:
        return {"declared_by": self._by, "declared_at": self._clock.time()}

    def _parallel(self, declaration: Declaration) -> int:
        """Return how many hosts a percentage is, of those that live now and are meant."""
        if not declaration.percent_parallel:
            return 0
        known = Statuses(self._tree, self._clock).refresh().values()
        meant = sum(host.is_live and declaration.selector.matches(host.host, host.labels) for host in known)
        return Bound(percent=declaration.percent_parallel).at_most(meant)
