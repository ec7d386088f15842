"""The manager's verbs for whoever does not write the store himself: asked of its daemon.

What changes the store goes over the socket; what only looks reads the store as every reader may, except who uses an
environment and what is being built, which the daemon sees better. Results, errors and progress are those of
`envmgr.manager.manager.Manager`, with these differences: `ensure` and `lock` that are given up are cancelled in the
daemon unless others want them, a moment after the call returned; `relock`, `repair` and `collect` that are given up go
on there; `remove` waits for a lock without saying for whom.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast
from urllib.parse import urlencode

from envmgr import ready
from envmgr.errors import EnvmgrError
from envmgr.events import Reporter, ignore
from envmgr.manager import inspection, verification
from envmgr.manager.collection import Collected, Limits
from envmgr.manager.context import SystemClock
from envmgr.manager.ensure import Ensured
from envmgr.manager.removal import Removed
from envmgr.manager.replacement import Replaced
from envmgr.manager.waiting import TimeLimit, never
from envmgr.model import Usage
from envmgr.names import BuildId, EnvName
from envmgr.remote import looking
from envmgr.remote.connection import PATIENCE, Connection, Patience, load
from envmgr.remote.following import Ended, Following
from envmgr.settings import machine
from envmgr.store import opening, publication, records
from envmgr.store.layout import Layout
from envmgr.wire import socket as wire

if TYPE_CHECKING:
    from envmgr.model import Damage, EnvironmentInfo, Record, Spec
    from envmgr.names import Alias

T = TypeVar("T")

_TRIES = 5
"""So often an environment that was made, and removed before we could lease it, is asked for again."""


class RemoteManager:
    """The environments of one store on this host, through its daemon at the socket `path`."""

    def __init__(self, root: Path, path: str, *, patience: Patience = PATIENCE) -> None:
        self._layout = opening.open_for_reading(root) or Layout(root)
        self._path = path
        self._patience = patience

    # -------------------------------------------------------------------------------------------------- what it makes

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
    ) -> Ensured:
        """Return the environment of `spec`, leased; see `envmgr.manager.manager.Manager.ensure`."""
        limit = TimeLimit(SystemClock(), timeout_s, is_cancelled)
        started = time.monotonic()
        request = wire.EnsureRequest(
            spec=_document(spec), alias=alias, move_alias=move_alias, lockfile=lock_text, retry=retry,
            cancel_when_unwanted=True, request_id=secrets.token_hex(8),
        )  # fmt: skip
        was_built = False
        for _ in range(_TRIES):
            ended = self._follow("/environments", request, limit, report)
            # Over this connection the daemon holds the build until we have our own lease.
            with ended.connection:
                lease = ready.acquire(str(self._layout.root), spec.name)
            # Whoever joined another's operation built nothing.
            is_ours = ended.request_id == request.request_id
            was_built |= is_ours and isinstance(ended.result, wire.EnsureResult) and ended.result.was_built
            if lease is not None:
                return Ensured(lease, was_built=was_built, duration_s=time.monotonic() - started)
            request = dataclasses.replace(request, retry=False)
        raise EnvmgrError(f"{spec.name} was removed as often as it was made, {_TRIES} times", hint="try again")

    def remember_text(self, text: bytes, name: EnvName) -> None:
        """Do nothing: the daemon remembers what it was sent."""

    def lock(
        self,
        spec: Spec,
        *,
        timeout_s: float | None = None,
        is_cancelled: Callable[[], bool] = never,
        report: Reporter = ignore,
    ) -> str:
        """Return the text of the lockfile in force for `spec`, solved if there is none."""
        limit = TimeLimit(SystemClock(), timeout_s, is_cancelled)
        request = wire.LockRequest(spec=_document(spec), cancel_when_unwanted=True)
        return cast("wire.LockResult", self._result("/lockfiles", request, limit, report)).text

    def relock(
        self,
        name: EnvName,
        *,
        exclude_newer: str | None = None,
        timeout_s: float | None = None,
        is_cancelled: Callable[[], bool] = never,
        report: Reporter = ignore,
    ) -> Replaced:
        """Solve again, build and republish; running jobs keep the old build."""
        limit = TimeLimit(SystemClock(), timeout_s, is_cancelled)
        request = wire.RelockRequest(exclude_newer=exclude_newer)
        return self._replaced(name, self._result(f"/environments/{name}/relock", request, limit, report))

    def repair(
        self,
        name: EnvName,
        *,
        timeout_s: float | None = None,
        is_cancelled: Callable[[], bool] = never,
        report: Reporter = ignore,
    ) -> Replaced:
        """Build the same packages again, validated byte by byte, and republish."""
        limit = TimeLimit(SystemClock(), timeout_s, is_cancelled)
        return self._replaced(name, self._result(f"/environments/{name}/repair", None, limit, report))

    # ------------------------------------------------------------------------------------------------ what it changes

    def remove(
        self,
        name: EnvName,
        *,
        when_free: bool = False,
        forget: bool = False,
        timeout_s: float | None = None,
        report: Reporter = ignore,  # noqa: ARG002 - the same verb as without a daemon
    ) -> Removed:
        """Remove one environment; see `envmgr.manager.removal`."""
        query = urlencode({"mode": "when-free" if when_free else "refuse", "forget": "true" if forget else "false"})
        limit = TimeLimit(SystemClock(), timeout_s)
        found = self._ask(wire.Removed, "DELETE", f"/environments/{name}?{query}", limit=limit)
        users = tuple(Usage(user.pid, user.uid, user.command, user.how) for user in found.used_by)
        build_id = None if found.build_id is None else BuildId(found.build_id)
        return Removed(EnvName(found.name), build_id, found.is_deleted, users)

    def set_alias(self, alias: Alias, name: EnvName, *, move: bool = False) -> None:
        """Let an alias stand for a name that is there; `AliasTaken` unless `move`."""
        self._ask(wire.Aliases, "PUT", f"/aliases/{alias}", wire.AliasRequest(environment=name, move=move))

    def remove_alias(self, alias: Alias) -> EnvName:
        """Drop an alias; nothing else is touched."""
        name = self.aliases().get(alias)
        self._ask(wire.Aliases, "DELETE", f"/aliases/{alias}")
        return name or EnvName(alias)

    def pin(self, name: EnvName, *, is_pinned: bool) -> None:
        """Pin or unpin an environment against collection."""
        self._ask(wire.Pinned, "PUT" if is_pinned else "DELETE", f"/environments/{name}/pin")

    def collect(
        self,
        *,
        dry_run: bool = False,
        limits: Limits | None = None,
        is_cancelled: Callable[[], bool] = never,
        report: Reporter = ignore,
    ) -> tuple[Collected, ...]:
        """Free what no environment needs, and the environments that the limits want to go."""
        given = limits or Limits()
        request = wire.CollectRequest(
            dry_run=dry_run, max_age_s=given.max_age_s, max_total_bytes=given.max_total_bytes, min_age_s=given.min_age_s
        )
        limit = TimeLimit(SystemClock(), None, is_cancelled)
        result = cast("wire.CollectResult", self._result("/collections", request, limit, report))
        return tuple(
            Collected(Path(it.path), None if it.name is None else EnvName(it.name), it.reason, it.size_bytes)
            for it in result.collected
        )

    # --------------------------------------------------------------------------------------------------- what is there

    def list(self) -> tuple[EnvironmentInfo, ...]:
        """Return every environment that the store knows."""
        return looking.list_all(str(self._layout.root))

    def show(self, name: EnvName) -> EnvironmentInfo:
        """Return one environment."""
        return looking.show(str(self._layout.root), name)

    def verify(self, name: EnvName) -> tuple[Damage, ...]:
        """Return everything that is wrong with an environment."""
        return verification.verify(self._layout, name, machine.subdir())

    def record(self, name: EnvName, build_id: BuildId) -> Record:
        """Return what was recorded of a build when it was made; `Corrupt` when the record is damaged or gone."""
        return records.read_record(self._layout, name, build_id)

    def log(self, name: EnvName) -> str:
        """Return the log of the published build, or of the last failure."""
        return inspection.read_log(self._layout, name)

    def aliases(self) -> dict[Alias, EnvName]:
        """Return every alias."""
        return publication.all_aliases(self._layout)

    # ------------------------------------------------------------------------------------------------------ the wire

    def _ask(
        self, cls: type[T], method: str, target: str, request: object = None, *, limit: TimeLimit | None = None
    ) -> T:
        with Connection(self._path, limit=limit, patience=self._patience) as connection:
            return load(self._path, cls, connection.ask(method, wire.PREFIX + target, request))

    def _follow(self, target: str, request: object, limit: TimeLimit, report: Reporter) -> Ended:
        following = Following(
            self._path, wire.PREFIX + target, request, limit=limit, report=report, patience=self._patience
        )
        return following.end()

    def _result(self, target: str, request: object, limit: TimeLimit, report: Reporter) -> wire.Result | None:
        ended = self._follow(target, request, limit, report)
        ended.connection.close()
        return ended.result

    def _replaced(self, name: EnvName, result: wire.Result | None) -> Replaced:
        found = cast("wire.ReplaceResult", result)
        record = records.read_record(self._layout, name, BuildId(found.build_id))
        return Replaced(record, is_new=found.is_new, old_build_id=BuildId(found.old_build_id))


def _document(spec: Spec) -> wire.SpecDocument:
    return wire.SpecDocument(text=spec.source_text, includes=dict(spec.includes))
