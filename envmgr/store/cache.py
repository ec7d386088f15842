"""The package cache as collection sees it: which entries there are, and a lock that keeps builds out.

::

    pkgs/.use                 shared flock: a build reads the cache; exclusive: entries are being deleted
    pkgs/archives/<sha256>    verified archives, as downloaded
    pkgs/unpacked/<key>       unpacked packages, whose files the prefixes share; <key>.ok says that one is complete
    pkgs/locks/<key>          flock: one build fetches or unpacks this package
    pkgs/named/<name>         link to an unpacked package by the name that rattler wants; <name>.lock is rattler's
    pkgs/bytecode/*/<sha256>  byte-code by the digest of its source; the environments' own files, linked

The key of an unpacked package is the first 48 digits of its archive's SHA-256: still beyond any collision, and short
enough for a symbolic link to it to fit into an inode. Links that need a block of their own take ext4 milliseconds each
to delete, and every build makes one for each of its packages.

Builds fill it through `envmgr.backends.archives`. Deleting an entry harms no environment: prefixes are hard links.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from envmgr.store import locks
from envmgr.store.layout import Layout
from envmgr.store.sizes import Links

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


@contextlib.contextmanager
def shared(layout: Layout) -> Iterator[None]:
    """Keep collection out of the cache for the length of the block; it holds it for as long as a few deletions take."""
    fd = os.open(layout.packages / ".use", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
        yield
    finally:
        os.close(fd)


def entries(layout: Layout) -> Iterator[tuple[str, Path]]:
    """Yield the sha256 or key (what precedes the first dot of the file's name) and the path of all in the cache."""
    for kind in _KINDS:
        directory = layout.packages / kind
        if directory.is_dir():
            for entry in sorted(os.listdir(directory)):
                yield entry.partition(".")[0], directory / entry


def bytecode(layout: Layout) -> Path:
    return layout.packages / "bytecode"


def unpacked(layout: Layout) -> Path:
    return layout.packages / "unpacked"


def locks_of_packages(layout: Layout) -> Path:
    """Return where builds lock a package while they fetch or unpack it."""
    return layout.packages / "locks"


def links_to_packages(layout: Layout) -> Path:
    """Return where builds link to unpacked packages by other names."""
    return layout.packages / "named"


def unused_bytecode(layout: Layout, links: Links) -> tuple[Path, ...]:
    """Return the byte-code in the cache that no environment and no build shares any more."""
    return tuple(path for path in bytecode(layout).glob("*/*") if links.left(path.lstat()) == 1)
