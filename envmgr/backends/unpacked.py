"""The unpacked packages of the cache: whether one can be used as it lies there, and how one gets there.

The seal of an entry is one line beside it: state, number of files, sum of their sizes, newest modification time. See
`envmgr.backends.archives` for what the states mean and what the cheap look does not see.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
import stat
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from envmgr import fsio
from envmgr.store.cache import unpacked_key

SYNCED = "synced"
_BLOCK_BYTES = 1 << 20
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Seal:
    state: str
    files: int
    size_bytes: int
    newest_ns: int

    def dump(self) -> str:
        return f"{self.state} {self.files} {self.size_bytes} {self.newest_ns}\n"


class Entries:
    """The directory of unpacked packages."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()

    def path(self, key: str) -> Path:
        return self._directory / unpacked_key(key)

    def _seal_path(self, key: str) -> Path:
        return self._directory / f"{unpacked_key(key)}.ok"

    def temporary(self, key: str) -> Path:
        """Return a path beside the entry that nobody else uses."""
        return self._directory / f"{fsio.TEMPORARY}{key}-{uuid.uuid4().hex[:12]}"

    def look(self, key: str, *, validate: bool = False) -> Seal | None:
        """Return the seal of an entry that can be used as it is, else ``None``; `validate` hashes every file."""
        seal = self.read_seal(key)
        if seal is None or seal.state not in {SYNCED, self.boot}:
            return None
        directory = self.path(key)
        try:
            files, size_bytes, newest_ns = _measure(directory)
        except OSError:
            return None
        if (files, size_bytes) != (seal.files, seal.size_bytes) or newest_ns > seal.newest_ns:
            return None
        return None if validate and not _is_true_to_paths(directory) else seal

    def read_seal(self, key: str) -> Seal | None:
        try:
            state, files, size_bytes, newest_ns = self._seal_path(key).read_text("ascii").split()
            return Seal(state, int(files), int(size_bytes), int(newest_ns))
        except (OSError, ValueError):
            return None

    def write_seal(self, key: str, seal: Seal) -> None:
        temporary = self.temporary(key)
        temporary.write_text(seal.dump(), "ascii")
        temporary.chmod(0o644)
        temporary.replace(self._seal_path(key))

    def settle(self, fresh: Path) -> Seal:
        """Make a tree that was just unpacked read-only, and return its seal."""
        return Seal(self.boot, *_settle(fresh))

    def put(self, key: str, fresh: Path, *, validate: bool = False) -> bool:
        """Put `fresh` in the place of an entry; tell whether a damaged or unfinished one had to make room for it.

        One that can be used stays, and `fresh` with it: merging never replaces. What is left over at `fresh` is the
        caller's to delete.
        """
        entry = self.path(key)
        if not entry.exists():
            fresh.rename(entry)
            return False
        if self.look(key, validate=validate) is not None:
            return False
        # The old one's seal may say ``synced`` and, of the same archive, fit the new one as well.
        self._seal_path(key).unlink(missing_ok=True)
        _exchange(entry, fresh)
        return True


def _measure(directory: Path) -> tuple[int, int, int]:
    """Return number, size and newest modification time of the files and links below `directory`."""
    files = size_bytes = newest_ns = 0
    todo = [str(directory)]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                else:
                    status = entry.stat(follow_symlinks=False)
                    files += 1
                    size_bytes += status.st_size
                    newest_ns = max(newest_ns, status.st_mtime_ns)
    return files, size_bytes, newest_ns


def _settle(directory: Path) -> tuple[int, int, int]:
    """Make the files below `directory` read-only and its directories usual; return what `_measure` will find."""
    files = size_bytes = newest_ns = 0
    now_ns = time.time_ns()
    for parent, directories, names in os.walk(directory):
        os.chmod(parent, 0o755)  # noqa: S103 - other users start programs from it
        # os.walk lists links to directories among the directories.
        links = [name for name in directories if os.path.islink(os.path.join(parent, name))]
        for name in (*names, *links):
            path = os.path.join(parent, name)
            status = os.lstat(path)
            modified_ns = status.st_mtime_ns
            if modified_ns > now_ns:  # from an archive of the future, which would hide every later change
                os.utime(path, ns=(now_ns, now_ns), follow_symlinks=False)
                modified_ns = os.lstat(path).st_mtime_ns
            if stat.S_ISREG(status.st_mode):
                os.chmod(path, 0o555 if status.st_mode & 0o111 else 0o444)
            files += 1
            size_bytes += status.st_size
            newest_ns = max(newest_ns, modified_ns)
    return files, size_bytes, newest_ns


def _is_true_to_paths(directory: Path) -> bool:
    """Hash every file of an unpacked package that its own list has a sha256 for."""
    try:
        document = json.loads((directory / "info/paths.json").read_bytes())
        for entry in document["paths"]:
            expected = entry.get("sha256")
            if expected is None or entry.get("path_type") != "hardlink":
                continue
            with (directory / entry["_path"]).open("rb") as file:
                found = hashlib.sha256()
                while block := file.read(_BLOCK_BYTES):
                    found.update(block)
            if found.hexdigest() != expected:
                return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # no list, no judgement: unpacking anew is the safe answer
    return True


def _exchange(one: Path, other: Path) -> None:
    """Swap two directories in one step, or in two where the file system cannot."""
    renameat2 = getattr(_libc, "renameat2", None)
    if renameat2 is not None:
        if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
            return
        if (code := ctypes.get_errno()) not in {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}:
            raise OSError(code, os.strerror(code), str(one))
    aside = other.with_name(other.name + "-old")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def delete(path: Path) -> None:
    """Delete a tree, as far as it goes; what is left is collected some day."""
    if path.is_symlink():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)
