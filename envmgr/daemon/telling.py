"""Who hears of changes, and what is told: each change once, as it ends or as it is refused.

What ends with an operation is told when that ends, with what is known of the build; before, only what kept it from
becoming one.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from envmgr.errors import Busy, Cancelled, EnvmgrError, PermissionRefused
from envmgr.names import BuildId
from envmgr.store import records
from envmgr.wire import socket as wire

if TYPE_CHECKING:
    from envmgr.model import Caller
    from envmgr.operations import Flight
    from envmgr.ports import Clock
    from envmgr.store.layout import Layout

_log = logging.getLogger(__name__)


class Observer(Protocol):
    """Hears of every change once, from any thread."""

    def changed(
        self, caller: Caller, what: str, name: str | None, outcome: str, duration_s: float, **facts: object
    ) -> None:
        """Hear of a change; `outcome`: succeeded, failed, cancelled, refused, all but the first with a ``code``."""


class Nobody:
    """The observer of who needs none."""

    def changed(
        self, caller: Caller, what: str, name: str | None, outcome: str, duration_s: float, **facts: object
    ) -> None:
        pass


@dataclass(slots=True)
class Telling:
    """What is known so far of what will be told."""

    name: str | None
    facts: dict[str, object]


class Teller:
    """Tells the observer."""

    def __init__(self, observer: Observer, layout: Layout, clock: Clock) -> None:
        self._observer = observer
        self._layout = layout
        self._clock = clock

    @contextlib.contextmanager
    def told(
        self, what: str, caller: Caller, name: str | None, *, is_told_later: bool = False, **facts: object
    ) -> Iterator[Telling]:
        """Tell what became of the block; with `is_told_later` only what went wrong in it."""
        telling = Telling(name, dict(facts))
        begun = self._clock.monotonic()
        error: BaseException | None = None
        try:
            yield telling
        except BaseException as raised:
            error = raised
            raise
        finally:
            if error is not None or not is_told_later:
                took_s = self._clock.monotonic() - begun
                self._tell(caller, what, telling.name, error, took_s, telling.facts)

    def ended(self, flight: Flight) -> None:
        """Tell of an operation that ended."""
        operation = flight.snapshot()
        facts: dict[str, object] = {
            "operation": flight.id,
            "waiters": operation.waiters,
            "phases_s": dict(flight.phases_s),
        }
        build_id = None
        if isinstance(operation.result, wire.EnsureResult):
            build_id, facts["was_built"] = operation.result.ready.build_id, operation.result.was_built
        elif isinstance(operation.result, wire.ReplaceResult):
            build_id, facts["was_built"] = operation.result.build_id, True
        elif isinstance(operation.result, wire.CollectResult):
            facts["dry_run"] = operation.result.dry_run
            facts["freed_bytes"] = sum(it.size_bytes for it in operation.result.collected)
        if build_id is not None and flight.name is not None:
            facts["build_id"] = build_id
            with contextlib.suppress(EnvmgrError, OSError):
                record = records.read_record(self._layout, flight.name, BuildId(build_id))
                facts |= {"downloaded_bytes": record.downloaded_bytes, "size_bytes": record.size_bytes}
                if record.sibling_bytes:
                    facts["sibling_bytes"] = record.sibling_bytes
        took_s = max(0.0, (operation.finished_at or 0.0) - operation.created_at)
        self._tell(flight.by, flight.kind, flight.name, flight.error, took_s, facts)

    def _tell(
        self, caller: Caller, what: str, name: str | None, error: BaseException | None, took_s: float,
        facts: dict[str, object],
    ) -> None:  # fmt: skip
        if error is not None:
            facts["code"] = error.code if isinstance(error, EnvmgrError) else EnvmgrError.code
            if isinstance(error, EnvmgrError) and error.fields.get("is_repeated"):
                facts["is_repeated"] = True
        try:
            self._observer.changed(caller, what, name, _outcome(error), took_s, **facts)
        except Exception:  # noqa: BLE001 - what was done is done, whoever could not hear of it
            _log.exception("telling of a change failed")


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "succeeded"
    if isinstance(error, (PermissionRefused, Busy)):
        return "refused"
    return "cancelled" if isinstance(error, Cancelled) else "failed"
