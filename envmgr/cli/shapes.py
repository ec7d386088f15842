"""The records that commands answer with: JSON for outsiders, so every key is always there (``None``, never absence).

Times are seconds since the epoch in UTC, sizes bytes, durations seconds, paths absolute.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from envmgr.errors import EnvmgrError
    from envmgr.manager.replacement import Replaced
    from envmgr.model import EnvironmentInfo, Record, Spec
    from envmgr.names import Alias
    from envmgr.ready import Lease

Json = Mapping[str, object]


def error(found: EnvmgrError) -> Json:
    """Return the one shape of an error."""
    return {"error": found.to_json()}


def named(spec: Spec) -> Json:
    """Return what a document alone tells."""
    return {
        "name": spec.name,
        "label": spec.label,
        "digest": spec.digest,
        "is_lockfile": spec.is_lockfile,
        "spec_warnings": [warning.to_json() for warning in spec.warnings],
    }


def environment(info: EnvironmentInfo) -> Json:
    """Return one environment as ``list`` tells it."""
    return {
        "name": info.name,
        "state": info.state,
        "label": info.label,
        "aliases": list(info.aliases),
        "path": str(info.path),
        "prefix": None if info.prefix is None else str(info.prefix),
        "build_id": info.build_id,
        "digest": info.digest,
        "lock_digest": info.lock_digest,
        "machine_class": info.machine_class,
        "created_at": info.created_at,
        "last_used_at": info.last_used_at,
        "size_bytes": info.size_bytes,
        "packages": info.packages,
        "python_version": info.python_version,
        "is_pinned": info.is_pinned,
        "used_by": [user.to_json() for user in info.used_by],
        "failure": None if info.failure is None else info.failure.to_json(),
    }


def build(record: Record | None) -> Json:
    """Return what the record of a build adds to `environment`."""
    return {
        "build_duration_s": None if record is None else record.duration_s,
        "phases_s": None if record is None else dict(record.phases_s),
        "skipped_link_scripts": None if record is None else list(record.skipped_link_scripts),
        "warnings": None if record is None else list(record.warnings),
        "host": None if record is None else record.host,
        "envmgr_version": None if record is None else record.envmgr_version,
    }


def made(record: Record, *, path: str, prefix: str, aliases: Iterable[Alias]) -> Json:
    """Return one environment as the commands tell it that make one."""
    return {
        "name": record.name,
        "label": record.label,
        "aliases": list(aliases),
        "path": path,
        "prefix": prefix,
        "build_id": record.build_id,
        "digest": record.digest,
        "lock_digest": record.lock_digest,
        "machine_class": record.machine_class,
        "created_at": record.created_at,
        "size_bytes": record.size_bytes,
        "packages": record.packages,
        "python_version": record.python_version,
        **build(record),
    }


def created(
    record: Record, lease: Lease, *, aliases: Iterable[Alias], was_built: bool, duration_s: float, spec: Spec
) -> Json:
    """Return what ``create`` answers; `duration_s` is that of the call, not of the build."""
    return {
        **made(record, path=lease.path, prefix=lease.prefix, aliases=aliases),
        "built": was_built,
        "duration_s": duration_s,
        "spec_warnings": [warning.to_json() for warning in spec.warnings],
    }


def replaced(found: Replaced, *, path: str, prefix: str, aliases: Iterable[Alias]) -> Json:
    """Return what ``relock`` and ``repair`` answer."""
    return {
        **made(found.record, path=path, prefix=prefix, aliases=aliases),
        "is_new": found.is_new,
        "old_build_id": found.old_build_id,
    }
