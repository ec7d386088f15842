"""The package cache as collection sees it: which entries there are, and a lock that keeps builds out.

::

    pkgs/.use                 shared flock: a build reads the cache; exclusive: entries are being deleted
    pkgs/archives/<sha256>    verified archives, as downloaded
    pkgs/unpacked/<key>       unpacked packages, whose files the prefixes share; <key>.ok says that one is complete
    pkgs/bytecode/*/<sha256>  byte-code by the digest of its source; the environments' own files, linked

The key of an unpacked package is the first 48 digits of its archive's SHA-256: still beyond any collision, and short
enough for a symbolic link to it to fit into an inode. Links that need a block of their own take ext4 milliseconds each
to delete, and every build makes one for each of its packages.

Builds fill it through `envmgr.backends.archives`. Deleting an entry harms no environment: prefixes are hard links.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from envmgr.store import locks
from envmgr.store.layout import Layout

_KINDS = ("archives", "unpacked")
_UNPACKED_DIGITS = 48


def unpacked_key(sha256: str) -> str:
    """Return what the unpacked package of an archive is called."""
    return sha256[:_UNPACKED_DIGITS]


@contextlib.contextmanager
def exclusive(layout: Layout) -> Iterator[bool]:
    """Try to keep builds out of the cache for the length of the block; tell whether none was using it."""
    fd = os.open(layout.packages / ".use", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    with locks.exclusive(fd) as is_granted:
        yield is_granted


def entries(layout: Layout) -> Iterator[tuple[str, Path]]:
    """Yield the sha256 or key (what precedes the first dot of the file's name) and the path of all in the cache."""
    for kind in _KINDS:
        directory = layout.packages / kind
        if directory.is_dir():
            for entry in sorted(os.listdir(directory)):
                yield entry.partition(".")[0], directory / entry


def bytecode(layout: Layout) -> Path:
    return layout.packages / "bytecode"


def unused_bytecode(layout: Layout) -> tuple[Path, ...]:
    """Return the byte-code in the cache that no environment and no build shares any more."""
    return tuple(path for path in bytecode(layout).glob("*/*") if path.lstat().st_nlink == 1)


def size_bytes(path: Path) -> int:
    """Return the bytes that deleting `path` would free: files that a prefix shares (hard links) count nothing."""
    if path.is_symlink() or not path.is_dir():
        status = path.lstat()
        return status.st_blocks * 512 if status.st_nlink == 1 else 0
    total = 0
    for directory, _, files in os.walk(path):
        for file in files:
            with contextlib.suppress(FileNotFoundError):
                status = os.lstat(os.path.join(directory, file))
                total += status.st_blocks * 512 if status.st_nlink == 1 else 0
    return total
