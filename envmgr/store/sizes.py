"""What trees take on disk when they share files by hard links, and what deleting one gives back.

Prefixes share most of their files with the package cache and with each other. A file's bytes are given back with its
last link only; so every question here is asked of inodes, each counted once.
"""

from __future__ import annotations

import contextlib
import os
import stat
from array import array
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

Inode = tuple[int, int]
_BLOCK_BYTES = 512  # of st_blocks, whatever the file system's own are


@dataclass(frozen=True, slots=True)
class Tree:
    """What deleting something would give back: bytes on disk and inodes; `links` are those of shared files."""

    disk_bytes: int
    inodes: int
    links: Counter[Inode] = field(repr=False)


class Links:
    """Links that are gone, or are to be taken for gone: so a dry run sees what a real run will see."""

    def __init__(self) -> None:
        self._gone: Counter[Inode] = Counter()

    def left(self, status: os.stat_result) -> int:
        """Return how many links a file has beside those that are taken for gone."""
        return status.st_nlink - self._gone[status.st_dev, status.st_ino]

    def measure(self, paths: Iterable[Path]) -> Tree:
        """Return what deleting all of `paths` (files or trees) would give back; what vanishes meanwhile is left out."""
        disk_bytes = inodes = 0
        links: Counter[Inode] = Counter()
        shared: dict[Inode, os.stat_result] = {}
        for status in (status for path in paths for status in _walk(path)):
            if stat.S_ISDIR(status.st_mode) or status.st_nlink == 1:
                disk_bytes += status.st_blocks * _BLOCK_BYTES
                inodes += 1
            else:
                inode = status.st_dev, status.st_ino
                links[inode] += 1
                shared[inode] = status
        for inode, status in shared.items():
            if links[inode] >= self.left(status):
                disk_bytes += status.st_blocks * _BLOCK_BYTES
                inodes += 1
        return Tree(disk_bytes, inodes, links)

    def take(self, tree: Tree) -> None:
        """Take what was measured for gone from now on."""
        self._gone.update(tree.links)


@dataclass(frozen=True, slots=True)
class Amount:
    """`size_bytes` is the sum of the sizes of files, as records have it; `disk_bytes` is what they occupy."""

    size_bytes: int = 0
    disk_bytes: int = 0
    inodes: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.size_bytes + other.size_bytes, self.disk_bytes + other.disk_bytes, self.inodes + other.inodes
        )

    def __sub__(self, other: Amount) -> Amount:
        return Amount(
            self.size_bytes - other.size_bytes, self.disk_bytes - other.disk_bytes, self.inodes - other.inodes
        )


class Census:
    """Trees of one file system, each inode of which is counted once: what all take together, what goes with each.

    Some 40 bytes are kept for each file. A file that is shared with something beside these trees counts like any other.
    """

    def __init__(self) -> None:
        self.total = Amount()
        self._holders: dict[int, int] = {}
        self._trees: dict[Hashable, tuple[array[int], array[int], array[int]]] = {}

    def add(self, key: Hashable, path: Path) -> None:
        inodes, sizes, blocks = array("Q"), array("Q"), array("Q")
        for status in _walk(path):
            inodes.append(status.st_ino)
            sizes.append(status.st_size if stat.S_ISREG(status.st_mode) else 0)
            blocks.append(status.st_blocks)
        self._trees[key] = inodes, sizes, blocks
        self.total += self._count(key, +1)

    def drop(self, key: Hashable) -> Amount:
        """Return what goes when this tree does: everything that no other tree here holds."""
        gone = self._count(key, -1)
        del self._trees[key]
        self.total -= gone
        return gone

    def _count(self, key: Hashable, step: int) -> Amount:
        """Add or take away a tree's holds, and return what has the first or has lost the last one."""
        size_bytes = disk_bytes = count = 0
        edge = 1 if step > 0 else 0
        for inode, size, blocks in zip(*self._trees[key], strict=True):
            holders = self._holders.get(inode, 0) + step
            self._holders[inode] = holders
            if holders == edge:
                size_bytes += size
                disk_bytes += blocks * _BLOCK_BYTES
                count += 1
                if not edge:
                    del self._holders[inode]
        return Amount(size_bytes, disk_bytes, count)


def _walk(path: Path) -> Iterator[os.stat_result]:
    """Yield the status of `path` and of everything below it; links are not followed, what vanishes is left out."""
    todo = [str(path)]
    while todo:
        here = todo.pop()
        try:
            status = os.lstat(here)
            yield status
            if stat.S_ISDIR(status.st_mode):
                with os.scandir(here) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            todo.append(entry.path)
                            continue
                        with contextlib.suppress(FileNotFoundError):
                            yield entry.stat(follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            continue
