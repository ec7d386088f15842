"""list and show: what is in the store, by whom it is used, and what failed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from envmgr.errors import Corrupt, EnvironmentNotFound, StoreTooNew
from envmgr.model import EnvironmentInfo, Spec, State, Usage
from envmgr.store import publication, records, usage

if TYPE_CHECKING:
    from envmgr.names import Alias, BuildId, EnvName
    from envmgr.store.layout import Layout


def list_all(layout: Layout) -> tuple[EnvironmentInfo, ...]:
    """Return every environment that is ready, damaged, being built, failed or pinned, sorted by name.

    One of which only the spec and the lockfile are kept, for a later create, is not listed; `show` tells of it.
    """
    builds = publication.published(layout)
    names = sorted({*builds, *records.known_names(layout)})
    return tuple(info for info in _describe(layout, names, builds) if info.state != "absent" or info.is_pinned)


def show(layout: Layout, name: EnvName) -> EnvironmentInfo:
    """Return one environment; `EnvironmentNotFound` when the store knows nothing of it."""
    builds = publication.published(layout)
    if name not in builds and name not in records.known_names(layout):
        raise EnvironmentNotFound(f"{name} is not in {layout.root}", hint="envmgr list shows what is")
    return _describe(layout, [name], builds)[0]


def _describe(layout: Layout, names: list[EnvName], builds: Mapping[EnvName, BuildId]) -> tuple[EnvironmentInfo, ...]:
    leases = {name: layout.build(builds[name]).lease for name in names if name in builds}
    locks = {name: layout.lock(name) for name in names}
    held = usage.lock_holders([*leases.values(), *locks.values()])
    aliases: dict[EnvName, list[Alias]] = {}
    for alias, target in publication.all_aliases(layout).items():
        aliases.setdefault(target, []).append(alias)
    return tuple(
        _describe_one(
            layout, name, builds.get(name), tuple(aliases.get(name, ())),
            used_by=held.get(leases[name], ()) if name in leases else (),
            is_locked=bool(held.get(locks[name])),
        )
        for name in names
    )  # fmt: skip


def _describe_one(
    layout: Layout,
    name: EnvName,
    build_id: BuildId | None,
    aliases: tuple[Alias, ...],
    *,
    used_by: tuple[Usage, ...],
    is_locked: bool,
) -> EnvironmentInfo:
    failure = records.read_failure(layout, name)
    state: State = "ready" if build_id else "building" if is_locked else "failed" if failure else "absent"
    record = None
    if build_id is not None:
        try:
            record = records.read_record(layout, name, build_id)
        except (Corrupt, StoreTooNew):
            state = "damaged"
    spec = None if record else _spec(layout, name)
    return EnvironmentInfo(
        name=name,
        state=state,
        label=record.label if record else spec.label if spec else None,
        aliases=aliases,
        path=layout.publication(name),
        prefix=layout.build(build_id).prefix(name) if build_id else None,
        build_id=build_id,
        digest=record.digest if record else spec.digest if spec else None,
        lock_digest=record.lock_digest if record else None,
        machine_class=record.machine_class if record else None,
        created_at=record.created_at if record else None,
        size_bytes=record.size_bytes if record else None,
        packages=record.packages if record else None,
        python_version=record.python_version if record else None,
        is_pinned=records.is_pinned(layout, name),
        used_by=used_by,
        failure=failure,
        last_used_at=records.read_last_use(layout, name) or (record.created_at if record else None),
    )


def _spec(layout: Layout, name: EnvName) -> Spec | None:
    try:
        return records.read_spec(layout, name)
    except (Corrupt, StoreTooNew, OSError):
        return None


def read_log(layout: Layout, name: EnvName) -> str:
    """Return the log of the published build, or else of the last failure with what it came to.

    Raises `EnvironmentNotFound` where there is neither.
    """
    build_id = publication.current(layout, name)
    if build_id is not None:
        try:
            return layout.build(build_id).log.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""
    failure = records.read_failure(layout, name)
    if failure is None:
        raise EnvironmentNotFound(f"there is no build and no failure of {name} in {layout.root}")
    end = f"\n{failure.code}: {failure.message}\n" + (f"hint: {failure.hint}\n" if failure.hint else "")
    return failure.log + end
