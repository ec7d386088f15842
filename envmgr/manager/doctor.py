"""doctor: is this host and its store fit to be trusted?

Each check says ``ok``, ``warning`` or ``error``, what it looked at, and what to do. Nothing is changed, except that
foreign things in ``envs/`` are moved to the trash (undeleted) when asked. Another user than the owner is told what he
may see.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from envmgr import cgroups
from envmgr.errors import Corrupt, EnvmgrError, StoreTooNew, UsageError
from envmgr.events import counted
from envmgr.manager.context import Context, free_space
from envmgr.model import Json
from envmgr.names import EnvName, is_name
from envmgr.store import locks, opening, publication, records, sweep, usage

if TYPE_CHECKING:
    from envmgr.store.layout import Layout

_EARLIEST_CLOCK = 1_767_225_600.0  # 2026-01-01: before this software existed


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    check: str
    status: Literal["ok", "warning", "error"]
    message: str
    hint: str | None = None

    def to_json(self) -> Json:
        return {"check": self.check, "status": self.status, "message": self.message, "hint": self.hint}


def examine(context: Context, *, only: str | None = None, quarantine: bool = False) -> tuple[Finding, ...]:
    """Run every check, or the one called `only`, and return the findings in order; `UsageError` for an unknown one."""
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "filesystem": lambda: _filesystem(context),
        "disk": lambda: _disk(context),
        "memory": lambda: _memory(context),
        "limits": _limits,
        "clock": lambda: _clock(context),
        "envs": lambda: _foreign(context.layout, quarantine=quarantine),
        "records": lambda: _publications(context.layout),
        "aliases": lambda: _aliases(context.layout),
        "leases": lambda: _exclusive_holders(context.layout),
        "builds": lambda: _leftovers(context.layout),
        "cache": lambda: _cache(context.layout),
        "backend": lambda: _backend(context),
        "channel": lambda: _channels(context),
    }
    if only is not None and only not in checks:
        raise UsageError(f"there is no check {only!r}", hint=f"one of {', '.join(checks)}")
    return tuple(
        finding for name, check in checks.items() if only in (None, name) for finding in _as_far_as_seen(name, check)
    )


def _as_far_as_seen(name: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    try:
        yield from check()
    except PermissionError as error:
        yield Finding(name, "warning", f"this user may not look: {error.filename}: {error.strerror}")


def _filesystem(context: Context) -> Iterator[Finding]:
    uid, _ = opening.owner(context.layout)
    if uid != os.geteuid():
        yield Finding("filesystem", "ok", f"locks and links in {context.root} are for its owner (uid {uid}) to try")
        return
    try:
        opening.check_filesystem(context.layout)
    except EnvmgrError as error:
        yield Finding("filesystem", "error", error.message, error.hint)
    except OSError as error:
        yield Finding("filesystem", "error", f"nothing can be written in {context.root}: {error.strerror}")
    else:
        yield Finding("filesystem", "ok", f"locks exclude and links work in {context.root}")
    if os.stat(context.layout.packages).st_dev != os.stat(context.layout.builds).st_dev:
        yield Finding(
            "filesystem", "warning", "pkgs/ and builds/ are on different file systems: packages are copied, not linked"
        )


def _disk(context: Context) -> Iterator[Finding]:
    free_bytes, free_inodes = free_space(context.layout.root)
    inodes = "unlimited" if free_inodes is None else str(free_inodes)
    too_few = free_inodes is not None and free_inodes < context.settings.min_free_inodes
    if free_bytes < context.settings.min_free_bytes or too_few:
        yield Finding(
            "disk", "error", f"{free_bytes / 2**20:.0f} MiB and {inodes} inodes are free, too few for a build",
            "envmgr gc frees what no environment needs",
        )  # fmt: skip
    else:
        yield Finding("disk", "ok", f"{free_bytes / 2**30:.1f} GiB and {inodes} inodes are free")


def _memory(context: Context) -> Iterator[Finding]:
    """Tell whether a build of this very process would be bounded; a service has a cgroup of its own."""
    if not context.settings.builder_memory_bytes:
        return
    try:
        cgroups.base()
    except cgroups.Unavailable as error:
        yield Finding(
            "memory", "warning", f"builder_memory_bytes cannot bound a build that is made from here: {error}",
            "it counts in the service, whose unit has Delegate=memory, and where a cgroup is delegated to a user",
        )  # fmt: skip
    else:
        yield Finding("memory", "ok", "the memory of builds is bounded (builder_memory_bytes)")


def _limits() -> Iterator[Finding]:
    """Tell what keeps the limits of a program that is run from here (``envmgr run --memory --cores``)."""
    try:
        cgroups.base(controllers=("memory", "cpu"))
    except cgroups.Unavailable as error:
        yield Finding("limits", "ok", f"limits of programs run from here are kept by envmgr, not by a cgroup: {error}")
    else:
        yield Finding("limits", "ok", "limits of programs run from here are kept by the kernel, in a cgroup")


def _clock(context: Context) -> Iterator[Finding]:
    now = context.clock.time()
    if now < _EARLIEST_CLOCK:
        year = time.gmtime(now).tm_year
        yield Finding("clock", "error", f"this host believes that it is {year}: certificates and records will be wrong")
    else:
        yield Finding("clock", "ok", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)))


def _foreign(layout: Layout, *, quarantine: bool) -> Iterator[Finding]:
    entries = publication.foreign(layout)
    for entry in entries:
        if quarantine:
            yield from _quarantined(layout, entry)
        else:
            yield Finding(
                "envs", "error", f"{layout.envs / entry} was not made by envmgr",
                "envmgr doctor --quarantine moves it to the trash, undeleted",
            )  # fmt: skip
    if not entries:
        yield Finding("envs", "ok", "nothing foreign stands in envs/")


def _quarantined(layout: Layout, entry: str) -> Iterator[Finding]:
    """Move an entry away, under the build lock where it stands in a name's place: nobody publishes there meanwhile."""
    with contextlib.ExitStack() as held:
        if is_name(entry) and not held.enter_context(locks.try_lock(layout, EnvName(entry))):
            yield Finding("envs", "warning", f"{entry} is busy; it stays where it is", "try again")
        elif publication.is_foreign(layout, entry):
            yield Finding("envs", "warning", f"{entry} was moved to {sweep.quarantine(layout, entry)}")


def _publications(layout: Layout) -> Iterator[Finding]:
    published = publication.published(layout)
    damaged = False
    for name, build_id in published.items():
        try:
            records.read_record(layout, name, build_id)
        except (Corrupt, StoreTooNew) as error:
            damaged = True
            yield Finding("records", "error", error.message, error.hint)
    if not damaged:
        yield Finding("records", "ok", counted(len(published), "environment"))


def _aliases(layout: Layout) -> Iterator[Finding]:
    published = publication.published(layout)
    aliases = publication.all_aliases(layout)
    dangling = {alias: name for alias, name in aliases.items() if name not in published}
    for alias, name in dangling.items():
        yield Finding("aliases", "warning", f"{alias} leads to {name}, which is not there", "envmgr alias remove")
    if not dangling:
        yield Finding("aliases", "ok", f"{len(aliases)} alias{'' if len(aliases) == 1 else 'es'}")


def _exclusive_holders(layout: Layout) -> Iterator[Finding]:
    """Name processes that hold a lease exclusively: a remover does so for milliseconds, nobody else may."""
    leases = [layout.build(build).lease for build in sweep.all_builds(layout)]
    found = usage.exclusive_holders(leases)
    if not found:
        yield Finding("leases", "ok", "no lease is held exclusively")
    for path, holders in found.items():
        yield Finding(
            "leases", "warning", f"{path} is held exclusively by {', '.join(str(holder) for holder in holders)}",
            "unless it is removing that environment right now, it keeps all others out: end it",
        )  # fmt: skip


def _leftovers(layout: Layout) -> Iterator[Finding]:
    kept = set(publication.published(layout).values())
    leftovers = [build for build in sweep.all_builds(layout) if build not in kept]
    if leftovers:
        yield Finding("builds", "ok", f"{counted(len(leftovers), 'build')} without a name (in use, or for the next gc)")


def _cache(layout: Layout) -> Iterator[Finding]:
    for name in ("archives", "unpacked"):
        directory = layout.packages / name
        if directory.is_dir():
            yield Finding("cache", "ok", f"{len(os.listdir(directory))} entries in pkgs/{name}")


def _backend(context: Context) -> Iterator[Finding]:
    """Tell which conda is used, where it is the site's own."""
    settings = context.settings
    if settings.backend == "rattler":
        return
    try:
        found = context.backend.site_conda(settings.conda_executable)
    except EnvmgrError as error:
        yield Finding("backend", "error", error.message, error.hint)
    else:
        yield Finding("backend", "ok", f"{settings.backend}: {found}")


def _channels(context: Context) -> Iterator[Finding]:
    for channel in context.settings.default_channel_urls():
        if context.settings.offline and not all(url.startswith("file:") for url in channel.urls):
            yield Finding("channel", "ok", f"{channel.name} is not asked: offline mode is on")
            continue
        problem = context.backend.probe(channel, context.settings.network(), context.settings.subdir)
        if problem is None:
            yield Finding("channel", "ok", f"{channel.name} answers")
        else:
            yield Finding(
                "channel", "error", f"{channel.name}: {problem}", "settings default_channels, mirrors, proxies"
            )
