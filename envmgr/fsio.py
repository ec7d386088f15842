"""Durable changes to the store: each is one named step, and each may be the last thing the process ever does.

Whoever changes the store does it through this module and says which `Step` it is. Every function brings its change to
disk before it returns (fsync of the file, then of its directory), except `sync_filesystem`, which brings everything.
A crash between two calls leaves the earlier ones whole; a crash inside one leaves it done or not done, and at most a
temporary file whose name begins with `TEMPORARY`.

Tests set `observer` to be told of every point inside every step, in order, and kill the process there. The list of
steps is `Step` itself, so that a new step cannot be forgotten.

Source: fsync(2), rename(2), syncfs(2); "All File Systems Are Not Created Equal" (OSDI 2014) on why the directory is
synced, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import errno
import os
import shutil
import stat
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

TEMPORARY = ".tmp-"
OUT_OF_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
"""The numbers of errors that a full disk or a used-up quota gives."""


class Step(enum.Enum):
    """What is being made durable; the value is what a log calls it."""

    STORE = "store identity"
    BUILD_DIRECTORY = "build directory"
    LEASE = "lease file"
    SPEC = "spec of the build"
    ARCHIVE = "verified archive"
    UNPACKED = "unpacked package"
    LOCKFILE = "lockfile in force"
    SYNC = "everything of the build"
    RECORD = "record of the build"
    PUBLISH = "name published"
    REPUBLISH = "name republished"
    UNPUBLISH = "name taken away"
    QUARANTINE = "foreign thing moved out of envs"
    ALIAS = "alias set"
    ALIAS_REMOVAL = "alias removed"
    SEEN_TEXT = "text remembered"
    PIN = "pin"
    FAILURE = "failure remembered"
    CREATOR = "creator remembered"
    FORGET = "what was known of a name dropped"
    TRASH = "moved to the trash"
    DELETE = "deleted from the trash"


Point = str
"""Where inside a step: ``before``, ``temporary`` (written beside), ``changed`` (visible), ``after`` (durable)."""

observer: Callable[[Step, Point], None] | None = None


def _reach(step: Step, point: Point) -> None:
    if observer is not None:
        observer(step, point)


@contextlib.contextmanager
def _directory(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def sync_directory(path: Path) -> None:
    """Bring the entries of one directory to disk."""
    with _directory(path) as fd:
        os.fsync(fd)


def _beside(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:12]}")


def write_file(step: Step, path: Path, data: bytes, *, mode: int = 0o644, is_exclusive: bool = False) -> None:
    """Replace or create `path` in one step; readers see the old bytes or the new ones, never a part.

    With `is_exclusive`, `FileExistsError` when anything stands there.
    """
    _reach(step, "before")
    temporary = _beside(path)
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        _reach(step, "temporary")
        if is_exclusive:
            os.link(temporary, path)
            temporary.unlink()
        else:
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _reach(step, "changed")
    sync_directory(path.parent)
    _reach(step, "after")


def make_directory(step: Step, path: Path, *, mode: int = 0o755, parents: bool = False) -> None:
    """Create a directory; `FileExistsError` when something stands there (nothing is raised for it with `parents`).

    It gets exactly `mode`, whatever the umask: readers of other users must get in.
    """
    _reach(step, "before")
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir()
        path.chmod(mode)
    except FileExistsError:
        if not parents or not path.is_dir():
            raise
    _reach(step, "changed")
    sync_directory(path.parent)
    _reach(step, "after")


def set_directory_mode(step: Step, path: Path, mode: int) -> None:
    """Give a directory of our own exactly `mode`; a symbolic link, and what belongs to others, stays as it is."""
    _reach(step, "before")
    status = path.lstat()
    is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
    if is_ours and stat.S_IMODE(status.st_mode) != mode:
        path.chmod(mode)
        _reach(step, "changed")
        sync_directory(path)
    _reach(step, "after")


def link_exclusive(step: Step, target: str, path: Path) -> None:
    """Make the symbolic link `path` -> `target`; `FileExistsError` when anything stands there."""
    _reach(step, "before")
    os.symlink(target, path)
    _reach(step, "changed")
    sync_directory(path.parent)
    _reach(step, "after")


def link_replacing(step: Step, target: str, path: Path) -> None:
    """Make or replace the symbolic link `path` -> `target` in one step."""
    _reach(step, "before")
    temporary = _beside(path)
    os.symlink(target, temporary)
    try:
        _reach(step, "temporary")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _reach(step, "changed")
    sync_directory(path.parent)
    _reach(step, "after")


def unlink(step: Step, path: Path) -> None:
    """Take one directory entry away; `FileNotFoundError` when it is not there."""
    _reach(step, "before")
    path.unlink()
    _reach(step, "changed")
    sync_directory(path.parent)
    _reach(step, "after")


def move(step: Step, source: Path, target: Path) -> None:
    """Rename within the file system; `target` must not exist (a fresh, unique name is the caller's business)."""
    _reach(step, "before")
    os.rename(source, target)
    _reach(step, "changed")
    sync_directory(source.parent)
    if target.parent != source.parent:
        sync_directory(target.parent)
    _reach(step, "after")


def delete_tree(step: Step, path: Path) -> None:
    """Delete a tree, read-only directories included; what another deleter took first is no error."""
    _reach(step, "before")
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        # Published prefixes are read-only; a directory must be writable before its entries can go, and readable before
        # they can be listed.
        with contextlib.suppress(FileNotFoundError):
            path.chmod(stat.S_IRWXU)
        for directory, names, _ in os.walk(path):
            for name in names:
                entry = os.path.join(directory, name)
                with contextlib.suppress(FileNotFoundError):
                    if not os.path.islink(entry):
                        os.chmod(entry, stat.S_IRWXU)
        _remove_tree(path)
    _reach(step, "after")


def _remove_tree(path: Path) -> None:
    if sys.version_info >= (3, 12):
        shutil.rmtree(path, onexc=lambda _function, _path, error: _tolerate_absence(error))
    else:
        shutil.rmtree(path, onerror=lambda _function, _path, info: _tolerate_absence(info[1]))


def _tolerate_absence(error: BaseException) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def sync_filesystem(step: Step, path: Path) -> None:
    """Bring everything that was written to the file system of `path` to disk, by whomever."""
    _reach(step, "before")
    libc = ctypes.CDLL(None, use_errno=True)
    with _directory(path) as fd:
        if hasattr(libc, "syncfs"):
            if libc.syncfs(fd) != 0:
                error = ctypes.get_errno()
                raise OSError(error, os.strerror(error), str(path))
        else:
            os.sync()
    _reach(step, "after")
