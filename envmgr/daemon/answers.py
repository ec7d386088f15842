"""From the manager's records to what crosses the socket (`envmgr.wire.socket`).

Text that somebody else chose (a process's command line, a failure's message) goes out without recognised credentials.
"""

from __future__ import annotations

import functools
import pwd
from typing import TYPE_CHECKING

from envmgr.settings.redact import redact
from envmgr.wire import socket as wire

if TYPE_CHECKING:
    from envmgr import model
    from envmgr.manager.collection import Collected
    from envmgr.manager.removal import Removed
    from envmgr.manager.replacement import Replaced
    from envmgr.names import BuildId
    from envmgr.ready import Lease


def ready(lease: Lease) -> wire.Ready:
    """Return what a leased build is."""
    return wire.Ready(name=lease.name, build_id=lease.build_id, path=lease.path, prefix=lease.prefix)


def named(spec: model.Spec) -> wire.Named:
    """Return what a document alone tells."""
    return wire.Named(
        name=spec.name,
        label=spec.label,
        digest=spec.digest,
        canonical_text=spec.canonical_text,
        is_lockfile=spec.is_lockfile,
        warnings=tuple(map(_problem, spec.warnings)),
    )


def _problem(problem: model.Problem) -> wire.Problem:
    return wire.Problem(line=problem.line, column=problem.column, message=problem.message, hint=problem.hint)


def environment(info: model.EnvironmentInfo, builds: tuple[BuildId, ...]) -> wire.Environment:
    """Return one environment; `builds` are those of its spec on disk, in any order."""
    return wire.Environment(
        name=info.name,
        state=info.state,
        label=info.label,
        aliases=info.aliases,
        path=str(info.path),
        prefix=None if info.prefix is None else str(info.prefix),
        build_id=info.build_id,
        builds=tuple(sorted(builds, key=lambda build: (build != info.build_id, build))),
        digest=info.digest,
        lock_digest=info.lock_digest,
        machine_class=info.machine_class,
        created_at=info.created_at,
        last_used_at=info.last_used_at,
        size_bytes=info.size_bytes,
        packages=info.packages,
        python_version=info.python_version,
        is_pinned=info.is_pinned,
        used_by=users(info.used_by),
        failure=None if info.failure is None else failure(info.failure),
    )


def users(usages: tuple[model.Usage, ...]) -> tuple[wire.User, ...]:
    """Return who uses a build."""
    return tuple(
        wire.User(
            pid=usage.pid,
            uid=usage.uid,
            user=user_name(usage.uid),
            command=redact(usage.command),
            how=usage.how,
        )
        for usage in usages
    )


@functools.lru_cache(maxsize=1024)
def user_name(uid: int) -> str | None:
    """Return the name of a user of this host, or ``None``; looked up once."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return None


def failure(found: model.Failure) -> wire.Failure:
    """Return the last failure of a name."""
    return wire.Failure(
        at=found.at,
        code=found.code,
        message=redact(found.message),
        hint=None if found.hint is None else redact(found.hint),
        attempts=found.attempts,
        retry_at=found.retry_at,
    )


def removed(found: Removed) -> wire.Removed:
    """Return what became of an environment that was removed."""
    return wire.Removed(
        name=found.name, build_id=found.build_id, is_deleted=found.is_deleted, used_by=users(found.users)
    )


def replaced(found: Replaced) -> wire.ReplaceResult:
    """Return what relock and repair came to."""
    return wire.ReplaceResult(
        name=found.record.name,
        build_id=found.record.build_id,
        old_build_id=found.old_build_id,
        is_new=found.is_new,
    )


def collected(found: Collected) -> wire.Collected:
    """Return one thing that was, or would be, freed."""
    return wire.Collected(path=str(found.path), name=found.name, reason=found.reason, size_bytes=found.size_bytes)
