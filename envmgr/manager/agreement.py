"""Which lockfile a build installs: the cluster's, this host's own, or one that is solved now, once for every host."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envmgr.errors import Corrupt, StoreTooNew
from envmgr.store import publication, records

if TYPE_CHECKING:
    from envmgr.manager.context import Context
    from envmgr.names import EnvName


def drift(context: Context) -> tuple[EnvName, ...]:
    """Return the environments that were made from another lockfile than the cluster's; `CoordinatorUnavailable`."""
    return tuple(name for name, own, theirs in _digests(context) if theirs is not None and theirs != own)


def unshared(context: Context) -> tuple[EnvName, ...]:
    """Return the environments of which the cluster has no lockfile; `CoordinatorUnavailable`."""
    return tuple(name for name, _, theirs in _digests(context) if theirs is None)


def _digests(context: Context) -> list[tuple[EnvName, str, str | None]]:
    """Return for each environment that was solved its lockfile's digest, here and in the cluster."""
    if not context.coordinator.is_clustered:
        return []
    found = []
    for name, build_id in publication.published(context.layout).items():
        try:
            record = records.read_record(context.layout, name, build_id)
            spec = records.read_spec(context.layout, name)
        except (Corrupt, StoreTooNew):
            continue  # `verify` and `doctor` say so
        if spec is not None and not spec.is_lockfile:
            theirs = context.coordinator.lock_digest(name, record.machine_class)
            found.append((name, record.lock_digest, theirs))
    return found
