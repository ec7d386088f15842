"""uv's cache as builds share it: whether what lies there can be believed after a power loss.

uv unpacks a wheel beside its place and renames it, and links it into prefixes from then on without a look at its bytes.
Nothing of that is brought to disk one by one, not by uv itself and not in a build (`envmgr.builder.deferred_sync`). So
after the machine went down without warning, a wheel may have its name there and not its content, and only uv knows what
belongs together. Hence the cache as a whole has a state::

    <uv cache>/.envmgr-use      flock: a build that may write here holds it shared
    <uv cache>/.envmgr-state    the id of the boot under which something was written that is not on disk, or ``synced``

* A build that begins to use the cache says so in the state; one that finds an earlier boot there, or no state and
  something else, deletes everything first. Prefixes keep their files, which are hard links.
* A build that is done with the cache, and is the only one that used it, keeps others out until its `syncfs`, and says
  ``synced`` then. Where several are at work, the last of them does; where it fails, the state stays, and costs
  downloads after the next boot.

The state itself is not synced: journaling file systems bring renames to disk in their order, and an empty state counts
as none.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from pathlib import Path

from envmgr import fsio
from envmgr.events import Event, Reporter
from envmgr.fsio import Step
from envmgr.store import locks

_USE = ".envmgr-use"
_STATE = ".envmgr-state"
_SYNCED = "synced"
_LOOK_S = 0.05


class Cache:
    """The cache at `directory` for one build: `open`, use, `leave`, `syncfs`, `mark_synced`."""

    def __init__(self, directory: Path, report: Reporter) -> None:
        self._directory = directory
        self._report = report
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        self._fd = -1
        self._is_alone = False

    def open(self) -> Path:
        """Begin to use it, once what cannot be believed is gone, and return where it is; a second call does nothing."""
        if self._fd < 0:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._directory / _USE, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            while not self._has_entered():
                time.sleep(_LOOK_S)
        return self._directory

    def leave(self) -> None:
        """Use it no more; to be called before `syncfs`."""
        if self._fd >= 0:
            self._is_alone = locks.try_exclusive(self._fd)  # where it is not granted, ours is gone, too (flock(2))

    def mark_synced(self) -> None:
        """Say that everything is on disk, if that is so; to be called after `syncfs`."""
        if self._fd >= 0:
            if self._is_alone:
                self._write_state(_SYNCED)
            os.close(self._fd)
            self._fd = -1

    def _has_entered(self) -> bool:
        if locks.try_exclusive(self._fd):
            if self._read_state() not in {_SYNCED, self._boot}:
                self._clear()
            self._write_state(self._boot)
        # Whoever holds it alone does so for as long as a deletion or a sync takes. Ours goes for a moment.
        fcntl.flock(self._fd, fcntl.LOCK_SH)
        state = self._read_state()
        if state == _SYNCED:
            self._write_state(self._boot)
        elif state != self._boot:
            # Who was about to clear it was killed, or somebody emptied the cache by hand while builds are at work.
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            return False
        return True

    def _clear(self) -> None:
        doubtful = [path for path in self._directory.iterdir() if path.name not in {_USE, _STATE}]
        if doubtful:
            self._report(Event("log", "pip", "the machine went down since uv's cache was used: it is made anew"))
        for path in doubtful:
            fsio.delete_tree(Step.DELETE, path)

    def _read_state(self) -> str:
        try:
            return (self._directory / _STATE).read_text("ascii")
        except (OSError, ValueError):
            return ""

    def _write_state(self, state: str) -> None:
        temporary = self._directory / f"{fsio.TEMPORARY}{uuid.uuid4().hex[:12]}"
        temporary.write_text(state, "ascii")
        temporary.replace(self._directory / _STATE)
