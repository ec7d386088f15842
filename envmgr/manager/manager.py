"""The front of the use cases: one object, the verbs of the library and the command line.

Everything here may block; `report` hears of progress from the calling thread. Every method raises
`envmgr.errors.EnvmgrError` and nothing else on purpose.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from envmgr import ready
from envmgr.errors import EnvironmentNotFound
from envmgr.events import Reporter, ignore
from envmgr.manager import (
    collection,
    collection_environments,
    doctor,
    ensure,
    inspection,
    locking,
    removal,
    replacement,
    verification,
)
from envmgr.manager.waiting import TimeLimit, never
from envmgr.store import opening, publication, records

if TYPE_CHECKING:
    from envmgr.manager.context import Context
    from envmgr.model import Damage, EnvironmentInfo, Record, Spec
    from envmgr.names import Alias, BuildId, EnvName

P = ParamSpec("P")
T = TypeVar("T")


def _writes(method: Callable[Concatenate[Manager, P], T]) -> Callable[Concatenate[Manager, P], T]:
    """Let a full or read-only file system be our error, wherever it was met."""

    @functools.wraps(method)
    def translated(self: Manager, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(self, *args, **kwargs)
        except OSError as error:
            ours = opening.translate(error, self.context.layout.root)
            if ours is error:
                raise
            raise ours from error

    return translated


class Manager:
    """The environments of one store on this host, for the store's owner."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._layout = context.layout

    @_writes
    def ensure(
        self,
        spec: Spec,
        *,
        alias: Alias | None = None,
        move_alias: bool = False,
        lock_text: str | None = None,
        retry: bool = False,
        timeout_s: float | None = None,
        is_cancelled: Callable[[], bool] = never,
        report: Reporter = ignore,
    ) -> ensure.Ensured:
        """Return the environment of `spec`, leased; see `envmgr.manager.ensure`.

        An alias that stands for another environment raises `AliasTaken` before anything is built.
        """
        if alias is not None and not move_alias:
            held_by = publication.all_aliases(self._layout).get(alias)
            if held_by is not None and held_by != spec.name:
                raise publication.alias_taken(alias, held_by, spec.name)
        limit = TimeLimit(self.context.clock, timeout_s, is_cancelled)
        ensured = ensure.ensure(self.context, spec, limit=limit, report=report, lock_text=lock_text, retry=retry)
        if alias is not None:
            try:
                publication.set_alias(self._layout, alias, spec.name, move=move_alias)
            except BaseException:
                ensured.lease.close()
                raise
        self._stamp(spec.name)
        if ensured.was_built:
            self._reclaim_in_passing()
        return ensured

    @_writes
    def remember_text(self, text: bytes, name: EnvName) -> None:
        """Remember the name of a document without includes, so that the next caller need not parse it.

        Nothing is promised: whoever may not write the store does without.
        """
        records.remember_text(self._layout, ready.text_key(text), name)

    def remove(
        self,
        name: EnvName,
        *,
        when_free: bool = False,
        forget: bool = False,
        by_cluster: bool = False,
        timeout_s: float | None = None,
        report: Reporter = ignore,
    ) -> removal.Removed:
        """Remove one environment; see `envmgr.manager.removal`.

        One that the cluster declares raises `DeclaredInCluster`, unless it is the cluster that wants it gone.
        """
        limit = TimeLimit(self.context.clock, timeout_s)
        removed = removal.remove(
            self.context, name, when_free=when_free, forget=forget, by_cluster=by_cluster, limit=limit, report=report
        )
        self._reclaim_in_passing()
        return removed

    @_writes
    def lock(
        self,
        spec: Spec,
        *,
        timeout_s: float | None = None,
        is_cancelled: Callable[[], bool] = never,
        report: Reporter = ignore,
    ) -> str:
        """Return the text of the lockfile in force for `spec`, solved if there is none."""
        limit = TimeLimit(self.context.clock, timeout_s, is_cancelled)
        return locking.lock(self.context, spec, limit=limit, report=report)

    @_writes
    def relock(
        self,
        name: EnvName,
        *,
        exclude_newer: str | None = None,
        timeout_s: float | None = None,
        is_cancelled: Callable[[], bool] = never,
        report: Reporter = ignore,
    ) -> replacement.Replaced:
        """Solve again, build and republish; running jobs keep the old build."""
        limit = TimeLimit(self.context.clock, timeout_s, is_cancelled)
        replaced = replacement.relock(self.context, name, exclude_newer=exclude_newer, limit=limit, report=report)
        return self._published_anew(replaced)

    @_writes
    def align(
        self,
        name: EnvName,
        *,
        timeout_s: float | None = None,
        is_cancelled: Callable[[], bool] = never,
        report: Reporter = ignore,
    ) -> replacement.Replaced:
        """Bring what is published under `name` to the cluster's lockfile in force; running jobs keep the old build.

        A generation that the cluster wants and nobody has solved yet is solved now; a lockfile that only this host
        knows becomes the cluster's. `Replaced.is_new` is false when the environment was in line already.
        """
        limit = TimeLimit(self.context.clock, timeout_s, is_cancelled)
        return self._published_anew(replacement.align(self.context, name, limit=limit, report=report))

    @_writes
    def repair(
        self,
        name: EnvName,
        *,
        timeout_s: float | None = None,
        is_cancelled: Callable[[], bool] = never,
        report: Reporter = ignore,
    ) -> replacement.Replaced:
        """Build the same packages again, validated byte by byte, and republish."""
        limit = TimeLimit(self.context.clock, timeout_s, is_cancelled)
        return self._published_anew(replacement.repair(self.context, name, limit=limit, report=report))

    def verify(self, name: EnvName) -> tuple[Damage, ...]:
        """Return everything that is wrong with an environment."""
        return verification.verify(self._layout, name, self.context.settings.subdir)

    def list(self) -> tuple[EnvironmentInfo, ...]:
        """Return every environment that the store knows."""
        return inspection.list_all(self._layout)

    def show(self, name: EnvName) -> EnvironmentInfo:
        """Return one environment."""
        return inspection.show(self._layout, name)

    def record(self, name: EnvName, build_id: BuildId) -> Record:
        """Return what was recorded of a build when it was made; `Corrupt` when the record is damaged or gone."""
        return records.read_record(self._layout, name, build_id)

    def log(self, name: EnvName) -> str:
        """Return the log of the published build, or of the last failure."""
        return inspection.read_log(self._layout, name)

    @_writes
    def set_alias(self, alias: Alias, name: EnvName, *, move: bool = False) -> None:
        """Let an alias stand for a name that is there; `AliasTaken` unless `move`."""
        if publication.current(self._layout, name) is None:  # also one that failed, or of which only the spec is kept
            raise EnvironmentNotFound(f"{name} is not in {self._layout.root}", hint="envmgr create FILE makes it")
        publication.set_alias(self._layout, alias, name, move=move)

    @_writes
    def remove_alias(self, alias: Alias) -> EnvName:
        """Drop an alias; nothing else is touched."""
        return publication.remove_alias(self._layout, alias)

    def aliases(self) -> dict[Alias, EnvName]:
        """Return every alias."""
        return publication.all_aliases(self._layout)

    @_writes
    def pin(self, name: EnvName, *, is_pinned: bool) -> None:
        """Pin or unpin an environment against collection."""
        inspection.show(self._layout, name)
        records.set_pinned(self._layout, name, is_pinned=is_pinned)

    @_writes
    def collect(
        self,
        *,
        dry_run: bool = False,
        limits: collection.Limits | None = None,
        protected: Collection[EnvName] = (),
        is_cancelled: Callable[[], bool] = never,
        report: Reporter = ignore,
    ) -> tuple[collection.Collected, ...]:
        """Free what no environment needs, and the environments that the limits want to go.

        `limits` stand in for the settings; environments in `protected` stay. See `envmgr.manager.collection`.
        """
        limit = TimeLimit(self.context.clock, None, is_cancelled)
        return collection.collect(
            self.context, dry_run=dry_run, limits=limits, protected=protected, limit=limit, report=report
        )

    @_writes
    def reclaim(self) -> collection.Reclaimed:
        """Delete the builds that no name leads to and nobody uses any more; cheap when there is none."""
        return collection.reclaim(self.context)

    @_writes
    def recover(self) -> collection.Reclaimed:
        """Clear away what a killed daemon left; for the start of one."""
        return collection.recover(self.context)

    @_writes
    def sample_use(self) -> int:
        """Note which environments are in use now; return how many are. To be called every now and then."""
        return collection_environments.sample_use(self.context)

    def _stamp(self, name: EnvName) -> None:
        records.stamp_use(self._layout, name, self.context.clock.time())

    def _published_anew(self, replaced: replacement.Replaced) -> replacement.Replaced:
        self._stamp(replaced.record.name)
        self._reclaim_in_passing()
        return replaced

    def _reclaim_in_passing(self) -> None:
        """Let whoever changes the store free what others left; without a daemon nobody else does."""
        with contextlib.suppress(OSError):
            collection.reclaim(self.context)

    @_writes
    def examine(self, *, only: str | None = None, quarantine: bool = False) -> tuple[doctor.Finding, ...]:
        """Check this host and its store, in everything or in one point; see `envmgr.manager.doctor`."""
        return doctor.examine(self.context, only=only, quarantine=quarantine)
