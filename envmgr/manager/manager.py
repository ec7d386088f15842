"""The front of the use cases: one object, the verbs of the library and the command line.

Everything here may block; `report` hears of progress from the calling thread. Every method raises
`envmgr.errors.EnvmgrError` and nothing else on purpose.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from envmgr import ready
from envmgr.errors import AliasTaken
from envmgr.events import Reporter, ignore
from envmgr.manager import (
    collection,
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
            if held_by not in (None, spec.name):
                raise AliasTaken(
                    f"alias {alias!r} stands for {held_by}, not for {spec.name}",
                    hint="--move lets it stand for the new one; processes that run keep the old one",
                )
        limit = TimeLimit(self.context.clock, timeout_s, is_cancelled)
        ensured = ensure.ensure(self.context, spec, limit=limit, report=report, lock_text=lock_text, retry=retry)
        if alias is not None:
            try:
                publication.set_alias(self._layout, alias, spec.name, move=move_alias)
            except BaseException:
                ensured.lease.close()
                raise
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
        timeout_s: float | None = None,
        report: Reporter = ignore,
    ) -> removal.Removed:
        """Remove one environment; see `envmgr.manager.removal`."""
        limit = TimeLimit(self.context.clock, timeout_s)
        return removal.remove(self.context, name, when_free=when_free, forget=forget, limit=limit, report=report)

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
        return replacement.relock(self.context, name, exclude_newer=exclude_newer, limit=limit, report=report)

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
        return replacement.repair(self.context, name, limit=limit, report=report)

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
        inspection.show(self._layout, name)
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
    def collect(self, *, dry_run: bool = False) -> tuple[collection.Collected, ...]:
        """Free what no environment needs."""
        return collection.collect(self.context, dry_run=dry_run)

    @_writes
    def examine(self, *, only: str | None = None, quarantine: bool = False) -> tuple[doctor.Finding, ...]:
        """Check this host and its store, in everything or in one point; see `envmgr.manager.doctor`."""
        return doctor.examine(self.context, only=only, quarantine=quarantine)
