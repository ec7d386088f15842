"""Collection of the caches: packages, byte-code, pip's packages, packed environments, what is remembered of texts.

All but the last two need ``pkgs/.use`` alone, which builds hold shared. It is tried, never waited for, and given back
for a moment after `_SLICE_S`, so that a build that comes meanwhile does not wait for the end of a large collection;
then what is needed is looked up again.

Of packed environments (`envmgr.store.packs`) goes what is of no published build's lockfile, under the lock of its name.

Needed is a package whose hash stands in the lockfile of a published build. Of uv's cache only uv knows what belongs
together, so it is kept or goes as a whole: it goes when more of its bytes are of no environment than are of one.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from envmgr import fsio
from envmgr.errors import Corrupt, StoreTooNew
from envmgr.events import counted
from envmgr.fsio import Step
from envmgr.names import is_name
from envmgr.store import cache, packs, records
from envmgr.store.sizes import Census, Links, Tree

if TYPE_CHECKING:
    from collections.abc import Iterable

    from envmgr.manager.collection_run import Run

_HASH = re.compile(r"(?<![0-9a-f])(?:[0-9a-f]{64}|[0-9a-f]{32})(?![0-9a-f])", re.IGNORECASE)
_SLICE_S = 1.0
_PAUSE_S = 0.02
_UV_WORTH_BYTES = 1 << 20


def collect(run: Run) -> None:
    """Free what no published build needs of the package cache and of uv's."""
    is_done, moved = False, None
    while not is_done:
        with cache.exclusive(run.context.layout) as is_granted:
            if not is_granted:
                return
            needed = _needed(run)
            is_done = _packages(run, needed)
            if is_done:
                _locks(run, needed)
                _links(run, needed)
                _bytecode(run)
                moved = _uv(run)
        run.context.clock.sleep(0.0 if is_done else _PAUSE_S)
    if moved is not None:
        fsio.delete_tree(Step.DELETE, moved)


def _packages(run: Run, needed: frozenset[str]) -> bool:
    """Free packages until the time is over; tell whether all are done."""
    found = _unneeded(run, needed)
    # From here on: with many environments the look-up alone may take as long, and is made again for each slice.
    until = run.context.clock.monotonic() + _SLICE_S
    for key, paths in found.items():
        run.free(paths, _said_of(run, key, paths))
        if run.context.clock.monotonic() > until:
            return False
    return True


def expected(run: Run) -> Tree:
    """Return what `collect` would free now of the package cache; nothing is locked."""
    return Links().measure(path for paths in _unneeded(run, _needed(run)).values() for path in paths)


def _unneeded(run: Run, needed: frozenset[str]) -> dict[str, list[Path]]:
    """Return the packages that no published build needs: by their key, everything that the cache has of each."""
    found: dict[str, list[Path]] = {}
    already = {thing.path for thing in run.found} if run.is_dry else set()
    for entry, path in cache.entries(run.context.layout):
        key = cache.unpacked_key(entry)
        if key not in needed:
            found.setdefault(key, []).append(path)
    return {key: paths for key, paths in found.items() if already.isdisjoint(paths)}


def _needed(run: Run) -> frozenset[str]:
    """Return the keys of the packages that published builds were made from, or that came in a bundle.

    Whatever looks like a hash in a lockfile counts, so that a damaged one, too, keeps what it names.
    """
    layout = run.context.layout
    lockfiles = [layout.build(build).lockfile for build in run.published().values()]
    return frozenset(key for path in (*lockfiles, *records.bundled_lockfiles(layout)) for key in _keys(path))


def _keys(lockfile: Path) -> Iterator[str]:
    try:
        text = lockfile.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return  # damaged, which verify and doctor say; its packages can be fetched again
    for found in _HASH.findall(text):
        yield cache.unpacked_key(found.lower()) if len(found) == 64 else f"md5-{found.lower()}"


def _said_of(run: Run, key: str, paths: Iterable[Path]) -> str:
    try:
        index = json.loads((cache.unpacked(run.context.layout) / key / "info" / "index.json").read_bytes())
        words = " ".join(str(index[field]) for field in ("name", "version", "build"))
    except (OSError, ValueError, KeyError, TypeError):
        if all(path.name.startswith(fsio.TEMPORARY) for path in paths):
            return "unfinished packages of builds that were killed"
        return "package that no environment needs"
    return f"package {words}, which no environment needs"


def _locks(run: Run, needed: frozenset[str]) -> None:
    """Free the lock files of packages that no environment needs; nobody holds one while `.use` is ours."""
    directory = cache.locks_of_packages(run.context.layout)
    stale = [path for path in _listed(directory) if cache.unpacked_key(path.name) not in needed]
    if stale:
        run.free(stale, f"{counted(len(stale), 'lock file')} of packages that no environment needs", shown=directory)


def _links(run: Run, needed: frozenset[str]) -> None:
    """Free the links to packages that are not there, or not needed, with rattler's lock file beside each.

    Builds make and follow them while they hold `.use`; one that misses a link makes it anew.
    """
    directory = cache.links_to_packages(run.context.layout)
    unpacked = cache.unpacked(run.context.layout).resolve()
    kept, links, others = set(), [], []
    for path in _listed(directory):
        target = path.resolve()
        if not path.is_symlink():
            others.append(path)
        elif target.exists() and (target.parent != unpacked or target.name in needed):
            kept.add(path.name)
        else:
            links.append(path)
    beside = [path for path in others if path.name.removesuffix(".lock") not in kept]
    if links or beside:
        run.free([*links, *beside], f"{len(links)} links to packages that no environment needs", shown=directory)


def _bytecode(run: Run) -> None:
    """Free byte-code in bulk: it is thousands of small files, which nobody wants to read one by one."""
    unused = cache.unused_bytecode(run.context.layout, run.links)
    if unused:
        reason = f"byte-code of {counted(len(unused), 'file')}, of no environment"
        run.free(unused, reason, shown=cache.bytecode(run.context.layout))


def _uv(run: Run) -> Path | None:
    """Take uv's cache away if it is mostly of no environment; return where it waits to be deleted."""
    directory = run.context.layout.uv_cache
    if not _listed(directory):
        return None
    census = Census()
    census.add(directory, directory)
    tree = run.measure(directory)
    if tree.disk_bytes < max(_UV_WORTH_BYTES, census.total.disk_bytes / 2):
        return None
    target = None
    if not run.is_dry:
        target = run.context.layout.trash / f"uv-cache-{os.urandom(6).hex()}"
        fsio.move(Step.TRASH, directory, target)
        fsio.make_directory(Step.STORE, directory)
    run.note(directory, "cache of pip packages, most of them of no environment", tree)
    return target


def texts(run: Run) -> None:
    """Free what is remembered of texts whose environment is not there, once it is old."""
    layout, now = run.context.layout, run.context.clock.time()
    published = run.published()
    stale = []
    for path in _listed(layout.by_text):
        try:
            is_old = now - path.lstat().st_mtime > run.limits.min_age_s
            target = os.readlink(path)
        except OSError:
            continue  # another one's, a temporary file, or nobody's
        if is_old and is_name(target) and target not in published:
            stale.append(path)
    if stale:
        run.free(
            stale, f"{counted(len(stale), 'remembered text')} of environments that are not there", shown=layout.by_text
        )


def packed(run: Run) -> None:
    """Free the archives of lockfiles that no published build has, and what killed packers left."""
    layout, published = run.context.layout, run.published()
    kept = packs.Packs(layout.packs)
    for name in kept.names():
        build = published.get(name)
        try:
            digest = "" if build is None else records.read_digests(layout, name, build)[1]
        except (Corrupt, StoreTooNew):
            continue  # verify and doctor say so
        with kept.try_lock(name) as is_held:
            if not is_held:
                continue
            for of, digits, path in kept.archives():
                if of == name and not packs.is_of(digest, digits):
                    run.free(packs.files_of(path), f"archive of {name}, of a lockfile that it has no more", shown=path)
            if leftovers := kept.leftovers(name):
                run.free(leftovers, "unfinished archives of processes that were killed")
            if build is None:
                run.free([kept.lock_file(name)], f"lock of archives of {name}, which is not there")


def _listed(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []
