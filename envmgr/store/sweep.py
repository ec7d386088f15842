"""Starting builds, and clearing away what became of those that were never published or are no longer.

A build directory is one of: being built or used (its lease is held), published (a name leads to it), or a leftover.
A leftover is moved to the trash under its exclusive lease, so that nobody can begin to use it meanwhile, and deleted
from there; what lies in the trash is garbage whatever happens, and whoever comes by deletes it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from envmgr import fsio
from envmgr.fsio import Step
from envmgr.names import BuildId, EnvName, build_id, is_build_id
from envmgr.ready import Lease
from envmgr.store import leases, orphans, publication, usage
from envmgr.store.layout import Layout

FOREIGN = "foreign-"
"""How the trash calls what doctor moved out of ``envs/``."""
_ENTRY_MAX_BYTES = 200


def begin_build(layout: Layout, name: EnvName, digest: str) -> Lease:
    """Make the directory of a new build, leased by us; under the name's build lock.

    No two builds that are on disk at one time share a path, and none gets a path that a name leads to already (whose
    build somebody deleted by hand): it would be seen half made. Where this fails, nothing is left.
    """
    stem = build_id(digest, 0).rpartition("-")[0]
    numbers = [0]
    for entry in (*os.listdir(layout.builds), *os.listdir(layout.trash), *publication.published(layout).values()):
        found, _, rest = entry.partition("-")
        if found == stem:
            number = rest.partition("-")[0]
            numbers.append(int(number) if number.isdigit() else 0)
    new = build_id(digest, max(numbers) + 1)
    paths = layout.build(new)
    lease = None
    fsio.make_directory(Step.BUILD_DIRECTORY, paths.directory)
    try:
        lease = leases.create(layout, name, new)
        paths.prefix(name).parent.mkdir()
        paths.prefix(name).parent.chmod(0o755)
    except BaseException:
        if lease is not None:
            lease.close()
        # On a full file system even this may fail; then the next sweep does it.
        with contextlib.suppress(OSError):
            discard(layout, new)
        raise
    return lease


def builds_of(layout: Layout, digest: str) -> tuple[BuildId, ...]:
    """Return the builds on disk of the spec with this digest, published or not."""
    stem = build_id(digest, 0).rpartition("-")[0]
    return tuple(
        BuildId(entry) for entry in sorted(os.listdir(layout.builds)) if is_build_id(entry) and entry.startswith(stem)
    )


def all_builds(layout: Layout) -> tuple[BuildId, ...]:
    return tuple(BuildId(entry) for entry in sorted(os.listdir(layout.builds)) if is_build_id(entry))


def discard(layout: Layout, build: BuildId) -> bool:
    """Throw a build away if nobody uses it and no name leads to it; tell whether it is gone.

    Under the build lock of its name.
    """
    with leases.exclusive(layout.build(build)) as is_granted:
        target = to_trash(layout, build) if is_granted else None
    if target is None:
        return False
    fsio.delete_tree(Step.DELETE, target)
    return True


def reclaim(layout: Layout, build: BuildId) -> bool:
    """Throw a leftover away, after the end of what a killed caller's build left running; tell whether it is gone.

    Under the build lock of its name, and not for a build that is the caller's own. The orphans go first, whether they
    hold the lease or not: the number of a build that is gone may be given again, and they would write there.
    """
    if build in publication.published(layout).values():
        return False
    orphans.end_marked(layout.build(build).directory)
    return discard(layout, build)


def to_trash(layout: Layout, build: BuildId) -> Path | None:
    """Move a build to the trash and return where it is, or ``None`` if a name leads to it or a process is inside.

    The caller holds the build's exclusive lease until this returns, so that nobody begins to use it meanwhile.
    """
    directory = layout.build(build).directory
    if build in publication.published(layout).values() or usage.processes_inside(directory):
        return None
    if not directory.is_dir():
        return None  # deleted by hand
    target = layout.trash / f"{build}-{os.urandom(6).hex()}"
    fsio.move(Step.TRASH, directory, target)
    return target


def sweep_name(layout: Layout, digest: str) -> tuple[BuildId, ...]:
    """Reclaim every leftover build of one spec; under the build lock of its name. Return what went."""
    kept = set(publication.published(layout).values())
    return tuple(build for build in builds_of(layout, digest) if build not in kept and reclaim(layout, build))


def quarantine(layout: Layout, entry: str) -> Path:
    """Move what doctor found in ``envs/`` into the trash, undeleted, and return where it is now."""
    kept = os.fsdecode(os.fsencode(entry)[:_ENTRY_MAX_BYTES])  # with what comes before it, no longer than names may be
    target = layout.trash / f"{FOREIGN}{os.urandom(6).hex()}-{kept}"
    source = layout.envs / entry
    try:
        fsio.move(Step.QUARANTINE, source, target)
    except PermissionError:
        # A directory that its owner may not write cannot change its parent, unless root moves it (rename(2)).
        fsio.set_directory_mode(Step.QUARANTINE, source, stat.S_IMODE(source.lstat().st_mode) | stat.S_IWUSR)
        fsio.move(Step.QUARANTINE, source, target)
    return target


def stray_temporaries(layout: Layout) -> tuple[Path, ...]:
    """Return temporary files that a killed writer left in the store's own directories (not in caches)."""
    own = (layout.root, layout.envs, layout.builds, layout.names, layout.by_text, layout.locks)
    places = (*own, *_subdirectories(layout.names))
    return tuple(
        Path(place) / entry for place in places for entry in _entries(place) if entry.startswith(fsio.TEMPORARY)
    )


def _entries(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []  # what is known of a name was forgotten this very moment


def _subdirectories(directory: Path) -> list[Path]:
    return [Path(entry.path) for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
