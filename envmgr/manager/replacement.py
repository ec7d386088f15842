"""relock and repair: the only use cases that replace a publication.

Both make a new build beside the old one and rename the name over to it, if it still leads where they read it. Processes
that run keep the build that they started in; it goes when the last of them is gone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envmgr import lockfile, policy
from envmgr.errors import Corrupt, EnvironmentNotFound, EnvmgrError, InvalidSpec, UsageError
from envmgr.events import Reporter
from envmgr.manager import ensure, requests
from envmgr.manager.context import Context
from envmgr.manager.waiting import TimeLimit, locked
from envmgr.store import publication, records, sweep

if TYPE_CHECKING:
    from envmgr.model import Record, Spec
    from envmgr.names import BuildId, EnvName


@dataclass(frozen=True, slots=True)
class Replaced:
    """The record of what is published now; `is_new` is false when relock found the very same packages."""

    record: Record
    is_new: bool
    old_build_id: BuildId


def _stored_spec(context: Context, name: EnvName) -> Spec:
    spec = records.read_spec(context.layout, name)
    if spec is None:
        raise EnvironmentNotFound(f"the store knows no spec for {name}", hint="envmgr create FILE makes it")
    return spec


def relock(
    context: Context, name: EnvName, *, exclude_newer: str | None, limit: TimeLimit, report: Reporter
) -> Replaced:
    """Solve again, build the result and republish; the new lockfile is in force from then on."""
    found: list[str] = []
    changes = requests.Changes(exclude_newer=exclude_newer)
    with locked(context, name, limit, report):
        old = _published(context, name)
        spec = _stored_spec(context, name)
        policy.check(spec, context.settings)
        if spec.is_lockfile:
            raise UsageError(
                f"{name} was made from a lockfile, which leaves nothing to solve",
                hint="create the environment of another lockfile, or of a spec",
            )
        lease = ensure.build(
            context, spec, None, limit=limit, report=report, on_locked=found.append, changes=changes, is_shared=False
        )
        with _swept(context, spec), contextlib.closing(lease):
            new = records.read_record(context.layout, name, lease.build_id)
            before = records.read_record(context.layout, name, old)
            is_new = new.lock_digest != before.lock_digest
            if is_new:
                # The lockfile goes first: a crash between the two leaves the old environment in place and the new
                # lockfile in force, and the next relock or create goes on from there.
                records.write_lockfile(context.layout, name, context.settings.machine_class, found[-1])
                _replace(context, name, old, lease.build_id)
        return Replaced(new if is_new else before, is_new, old)


def align(context: Context, name: EnvName, *, limit: TimeLimit, report: Reporter) -> Replaced:
    """Bring a publication to the cluster's lockfile in force."""
    raise NotImplementedError


def repair(context: Context, name: EnvName, *, limit: TimeLimit, report: Reporter) -> Replaced:
    """Build the published packages again, every cached one validated byte by byte, and republish."""
    changes = requests.Changes(validate_packages=True)
    with locked(context, name, limit, report):
        old = _published(context, name)
        spec = _stored_spec(context, name)
        text = _published_lockfile(context, name, old) or ensure.lockfile_in_force(context, spec)
        lease = ensure.build(
            context, spec, text, limit=limit, report=report, changes=changes, is_shared=False,
            on_locked=lambda text: records.write_lockfile(context.layout, name, context.settings.machine_class, text),
        )  # fmt: skip
        with _swept(context, spec), contextlib.closing(lease):
            _replace(context, name, old, lease.build_id)
            record = records.read_record(context.layout, name, lease.build_id)
        return Replaced(record, is_new=True, old_build_id=old)


def _published_lockfile(context: Context, name: EnvName, build_id: BuildId) -> str | None:
    """Return the lockfile that a published build was made from, or ``None`` when it or its record is damaged too.

    It is not always the one in force: a relock that was killed before it republished has put a newer one in force, and
    a repair must not change packages.
    """
    try:
        record = records.read_record(context.layout, name, build_id)
        text = context.layout.build(build_id).lockfile.read_text(encoding="utf-8")
        digest = lockfile.parse(text, context.settings.subdir).digest
    except (Corrupt, InvalidSpec, OSError, UnicodeDecodeError):
        return None
    return text if digest == record.lock_digest else None


@contextlib.contextmanager
def _swept(context: Context, spec: Spec) -> Iterator[None]:
    """At the end of the block, however it ends, discard the builds of `spec` that no name leads to and nobody uses."""
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a full file system: the next sweep takes them
            sweep.sweep_name(context.layout, spec.digest)


def _published(context: Context, name: EnvName) -> BuildId:
    build_id = publication.current(context.layout, name)
    if build_id is None:
        raise EnvironmentNotFound(f"{name} is not in {context.root}", hint="envmgr create FILE makes it")
    return build_id


def _replace(context: Context, name: EnvName, old: BuildId, new: BuildId) -> None:
    if not publication.republish(context.layout, name, old, new):
        raise EnvmgrError(f"{name} was changed by somebody else while it was rebuilt", hint="try again")
    records.clear_failure(context.layout, name)
