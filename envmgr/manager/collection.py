"""collect: free what no environment needs.

Of this host's store: leftover builds, the trash, temporary files of killed writers, packages and archives in the cache
that no published build's lockfile names. Environments themselves are not chosen for removal here, and the pip section's
cache is uv's own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from envmgr import fsio, lockfile
from envmgr.errors import InvalidSpec
from envmgr.fsio import Step
from envmgr.model import Json
from envmgr.names import EnvName, is_name
from envmgr.store import cache, leases, locks, orphans, publication, sweep

if TYPE_CHECKING:
    from envmgr.manager.context import Context
    from envmgr.names import BuildId

_STRAY_AGE_S = 3600.0
"""How old a temporary file must be before it is a killed writer's; a live one needs it for milliseconds."""


@dataclass(frozen=True, slots=True)
class Collected:
    """One thing that was (or would be) freed, why, and how large it is."""

    path: Path
    reason: str
    size_bytes: int

    def to_json(self) -> Json:
        return {"path": str(self.path), "reason": self.reason, "size_bytes": self.size_bytes}


def collect(context: Context, *, dry_run: bool) -> tuple[Collected, ...]:
    """Free what no environment needs and return what was freed; with `dry_run` only say what would be.

    Never waits: what somebody is busy with is left for the next time.
    """
    return (
        *_leftover_builds(context, dry_run=dry_run),
        *_trash(context, dry_run=dry_run),
        *_strays(context, dry_run=dry_run),
        *_cache(context, dry_run=dry_run),
    )


def _leftover_builds(context: Context, *, dry_run: bool) -> Iterator[Collected]:
    layout = context.layout
    kept = set(publication.published(layout).values())
    for build in sweep.all_builds(layout):
        if build in kept:
            continue
        try:
            found = Collected(layout.build(build).directory, "build that no name leads to", _size(context, build))
        except FileNotFoundError:
            continue  # another one takes it away
        with contextlib.ExitStack() as held:
            is_held = all(held.enter_context(locks.try_lock(layout, name)) for name in _names_of(context, build))
            if is_held and (_is_free(context, build) if dry_run else sweep.reclaim(layout, build)):
                yield found


def _names_of(context: Context, build: BuildId) -> tuple[EnvName, ...]:
    """Return every name, sorted, that a build may have been begun for: those whose digest begins with its digits.

    Whoever begins a build has made the name's lock before, and a lock is never unlinked. So a build that was seen
    before the locks are listed has its lock among them.
    """
    stem = f"env-{build.partition('-')[0]}"
    entries = (entry.removesuffix(".lock") for entry in os.listdir(context.layout.locks))
    return tuple(sorted(EnvName(entry) for entry in entries if is_name(entry) and entry.startswith(stem)))


def _is_free(context: Context, build: BuildId) -> bool:
    """Tell whether nobody uses a build but, it may be, what a killed builder left running."""
    paths = context.layout.build(build)
    with leases.exclusive(paths) as is_granted:
        return is_granted or bool(orphans.marked(paths.directory))


def _size(context: Context, build: BuildId) -> int:
    return cache.size_bytes(context.layout.build(build).directory)


def _trash(context: Context, *, dry_run: bool) -> Iterator[Collected]:
    for entry in sorted(os.listdir(context.layout.trash)):
        if entry.startswith(sweep.FOREIGN):
            continue  # somebody's own files, moved here by doctor; deleting them is the administrator's decision
        path = context.layout.trash / entry
        try:
            found = Collected(path, "trash", cache.size_bytes(path))
        except FileNotFoundError:
            continue  # another one deletes, too
        if not dry_run:
            fsio.delete_tree(Step.DELETE, path)
        yield found


def _strays(context: Context, *, dry_run: bool) -> Iterator[Collected]:
    for path in sweep.stray_temporaries(context.layout):
        try:
            age_s = context.clock.time() - path.lstat().st_mtime
            size_bytes = cache.size_bytes(path)
        except FileNotFoundError:
            continue
        if age_s > _STRAY_AGE_S:
            if not dry_run:
                fsio.delete_tree(Step.DELETE, path)
            yield Collected(path, "temporary file of a writer that was killed", size_bytes)


def _cache(context: Context, *, dry_run: bool) -> Iterator[Collected]:
    with cache.exclusive(context.layout) as is_granted:
        if not is_granted:
            return
        wanted = _wanted_artifacts(context)
        for digest, path in cache.entries(context.layout):
            if digest in wanted:
                continue
            try:
                found = Collected(path, "package that no environment needs", cache.size_bytes(path))
            except FileNotFoundError:
                continue
            if not dry_run:
                fsio.delete_tree(Step.DELETE, path)
            yield found
        yield from _bytecode(context, dry_run=dry_run)


def _bytecode(context: Context, *, dry_run: bool) -> Iterator[Collected]:
    """Free byte-code in bulk: it is thousands of small files, which nobody wants to read one by one."""
    unused = cache.unused_bytecode(context.layout)
    if unused:
        size_bytes = sum(cache.size_bytes(path) for path in unused)
        if not dry_run:
            for path in unused:
                fsio.delete_tree(Step.DELETE, path)
        yield Collected(
            cache.bytecode(context.layout), f"byte-code of {len(unused)} files, of no environment", size_bytes
        )


def _wanted_artifacts(context: Context) -> set[str]:
    """Return the sha256, and the key when unpacked, of every package that a published build was made from."""
    wanted = set()
    for build in publication.published(context.layout).values():
        try:
            text = context.layout.build(build).lockfile.read_text(encoding="utf-8")
            packages = lockfile.parse(text, context.settings.subdir).packages
        except (InvalidSpec, OSError, UnicodeDecodeError):
            continue  # damaged, which verify and doctor say; its packages can be fetched again
        digests = {package.sha256 for package in packages if package.sha256}
        wanted |= digests | {cache.unpacked_key(digest) for digest in digests}
    return wanted
