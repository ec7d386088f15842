"""Packed environments: archives that work elsewhere, kept so that each is made once.

::

    packs/<name>-<digits>.<format>        the archive, read-only; `digits` are the first 24 of its lockfile's digest
    packs/<name>-<digits>.<format>.json   its size, time of change and SHA-256; written last: the sign that it is whole
    packs/.lock-<name>                    flock: one process packs this environment
    packs/.tmp-<name>-…                   what somebody is writing, or was when he was killed

In the store, for its owner, who alone writes it; collection deletes what no environment has any more. Whoever uses the
store of somebody else reads what is there, and else keeps what he packed in a directory of his own.

An archive is given away as a hard link where that is possible. Somebody may write into such a file: then its size or
its time of change is no longer what was noted, and it counts as not there.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from envmgr import fsio
from envmgr.names import EnvName
from envmgr.store import locks

FORMATS = ("tar.gz", "zip", "tar", "tar.bz2", "tar.xz")
_DIGITS = 24
_NOTE = ".json"
_LOCK = ".lock-"
_KEY = re.compile(rf"(env-[0-9a-f]{{16}})-([0-9a-f]{{{_DIGITS}}})\.(.+)")


@dataclass(frozen=True, slots=True)
class Pack:
    """A whole archive."""

    path: Path
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Packs:
    """The archives in one directory, which need not exist."""

    directory: Path

    def path(self, name: EnvName, lock_digest: str, archive_format: str) -> Path:
        """Return where the archive of an environment is kept."""
        return self.directory / f"{name}-{lock_digest[:_DIGITS]}.{archive_format}"

    def temporary(self, name: EnvName) -> Path:
        """Return a path for what is being written; for whoever holds the name's lock."""
        return self.directory / f"{fsio.TEMPORARY}{name}-{os.urandom(6).hex()}"

    def find(self, path: Path) -> Pack | None:
        """Return the archive at `path` if it is there, whole and unchanged."""
        try:
            status = path.stat()
            note = json.loads(_note(path).read_bytes())
            if (note["size_bytes"], note["changed_ns"]) == (status.st_size, status.st_mtime_ns):
                return Pack(path, status.st_size, str(note["sha256"]))
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None

    def keep(self, temporary: Path, path: Path, sha256: str) -> Pack:
        """Put a whole archive in its place, durably; for whoever holds the name's lock."""
        fd = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fchmod(fd, 0o444)
            os.fsync(fd)
            status = os.fstat(fd)
        finally:
            os.close(fd)
        note = {"size_bytes": status.st_size, "changed_ns": status.st_mtime_ns, "sha256": sha256}
        os.replace(temporary, path)
        # A note without its archive, or of another one, says nothing; so no order of these two on disk does harm.
        beside = path.parent / f"{temporary.name}{_NOTE}"
        beside.write_text(json.dumps(note) + "\n", encoding="ascii")
        os.replace(beside, _note(path))
        fsio.sync_directory(self.directory)
        return Pack(path, status.st_size, sha256)

    @contextlib.contextmanager
    def try_lock(self, name: EnvName) -> Iterator[bool]:
        """Hold a name's lock for the length of the block, if it is free; tell whether it was."""
        path = self.directory / f"{_LOCK}{name}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            yield locks.try_exclusive(fd) and _stands_at(fd, path)
        finally:
            os.close(fd)

    def archives(self) -> list[tuple[EnvName, str, Path]]:
        """Return every archive: the environment, the digits of its lockfile, the path."""
        found = []
        for path in _listed(self.directory):
            match = _KEY.fullmatch(path.name)
            if match is not None and not path.name.endswith(_NOTE):
                found.append((EnvName(match[1]), match[2], path))
        return found

    def leftovers(self, name: EnvName) -> list[Path]:
        """Return what killed processes left of a name; for whoever holds its lock."""
        return [path for path in _listed(self.directory) if path.name.startswith(f"{fsio.TEMPORARY}{name}-")]

    def names(self) -> list[EnvName]:
        """Return every name that has anything here."""
        found = {match[0] for path in _listed(self.directory) if (match := _NAME.search(path.name))}
        return sorted(EnvName(name) for name in found)

    def note_use(self, found: Pack) -> None:
        """Note that an archive was asked for; nothing is promised, and the store's are not this user's to note."""
        with contextlib.suppress(OSError):
            os.utime(_note(found.path))

    def used_at(self, path: Path) -> float:
        """Return when an archive was asked for last."""
        try:
            return _note(path).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def lock_file(self, name: EnvName) -> Path:
        return self.directory / f"{_LOCK}{name}"


_NAME = re.compile(r"env-[0-9a-f]{16}")


def files_of(path: Path) -> tuple[Path, Path]:
    """Return the files that an archive consists of, the sign that it is whole first."""
    return _note(path), path


def is_of(lock_digest: str, digits: str) -> bool:
    """Tell whether the digits of an archive are those of a lockfile."""
    return lock_digest[:_DIGITS] == digits


def _note(path: Path) -> Path:
    return path.with_name(path.name + _NOTE)


def _listed(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except FileNotFoundError:
        return []


def _stands_at(fd: int, path: Path) -> bool:
    """Tell whether a lock's file still stands there: collection takes those away that nobody holds."""
    here = os.fstat(fd)
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
