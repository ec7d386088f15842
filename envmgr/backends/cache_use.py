"""A build's share in the package cache: ``<package_cache>/.use``, flocked shared, keeps collection out.

Whoever has it alone may delete what is unfinished: nobody is making anything then.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from envmgr import fsio
from envmgr.store import locks


@contextlib.contextmanager
def in_use(root: Path) -> Iterator[None]:
    """Keep collection out of the cache at `root` for the length of the block; makes the cache if it is not there.

    Where no other build uses it, what killed ones left unfinished is deleted first.
    """
    for directory in (root, root / "archives", root / "unpacked", root / "locks"):
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    fd = os.open(root / ".use", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if locks.try_exclusive(fd):
            # Nobody is making anything: what is unfinished was a killed builder's, and may be large.
            _clear_unfinished(root)
        fcntl.flock(fd, fcntl.LOCK_SH)  # whoever holds it alone does so for as long as a few deletions take
        yield
    finally:
        os.close(fd)


def _clear_unfinished(root: Path) -> None:
    for path in root.glob(f"*/{fsio.TEMPORARY}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
