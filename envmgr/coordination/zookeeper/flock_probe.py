"""Whether flock excludes between the hosts of one store: proved by two of them, over ZooKeeper.

Leases are flocks. On a file system that several hosts mount, some mounts keep flocks to themselves (``nolock``,
``local_lock=flock``, most of FUSE), and nothing on one host shows it. So the daemon of each host holds a lock on a file
of its own in the store, and says so; whoever is about to delete something tries the locks of the others. ::

    locks/flock-probe-<digest of the host>            in the store; never unlinked
    /v1/flock/<store id>/holders/<host>               ephemeral: the host holds its file's lock
    /v1/flock/<store id>/verdicts/<host>              what that host found last, and in which mount

The lock is taken before it is announced and outlives its announcement, so an announced lock that is granted to another
host is none; or its holder has died and its session has not ended yet, which looks the same for a session's length.
It is held exclusively and tried shared: who is refused was refused by its holder, and not by another one who tries it.

What holds: `check` passes only if this host, in this mount, was refused every lock that another host announces now; or,
if none does, those that were announced when it was asked last.

Not promised: anything of a host whose daemon does not run, or is in no cluster, although it mounts the store.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from envmgr.coordination.zookeeper.nodes import NodeExists, NoNode
from envmgr.errors import CoordinatorUnavailable, UnsuitableFilesystem
from envmgr.store.locks import try_exclusive

if TYPE_CHECKING:
    from collections.abc import Callable

    from envmgr.coordination.zookeeper.session import Session, State

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TRIES = 10
_PAUSE_S = 0.05
_HINT = "mount it with locks that hold between hosts, or give each host a store of its own (ENVMGR_ROOT)"


class FlockProbe:
    """One host's part in it; `locks` is the directory of the store's locks. Any thread."""

    def __init__(self, session: Session, *, host: str, store_id: str, locks: Path) -> None:
        self._session = session
        self._host = host
        self._locks = locks
        self._holders = f"/v1/flock/{store_id}/holders"
        self._verdict = f"/v1/flock/{store_id}/verdicts/{host}"
        self._lock = threading.Lock()
        self._fd: int | None = None
        self._epoch = 0
        self._unhear: Callable[[], None] | None = None
        self._free_since: dict[int, float] = {}

    # --------------------------------------------------------------------------------------------------------- holding

    def hold(self) -> None:
        """Hold this host's lock until `close`, and say so now and in each session to come; for its daemon."""
        with self._lock:
            if self._fd is None:
                fd = os.open(self._file(self._host), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                if not _taken(fd):
                    os.close(fd)  # another daemon of this host, which is about to end or says so itself
                    return
                self._fd = fd
                self._unhear = self._session.hear(self._heard)
        self._announce()

    def close(self) -> None:
        """Take the word back, then the lock."""
        with self._lock:
            fd, self._fd = self._fd, None
            unhear, self._unhear = self._unhear, None
        if unhear is not None:
            unhear()
        if fd is not None:
            with contextlib.suppress(NoNode, CoordinatorUnavailable):
                self._session.delete(f"{self._holders}/{self._host}")
            os.close(fd)

    def _heard(self, state: State) -> None:
        if state == "connected":
            self._announce()

    def _announce(self) -> None:
        with self._lock, contextlib.suppress(CoordinatorUnavailable):
            epoch = self._session.epoch
            if self._fd is None or not epoch or epoch == self._epoch:
                return
            path = f"{self._holders}/{self._host}"
            with contextlib.suppress(NoNode):
                self._session.delete(path)  # of an earlier session: the lock is ours now
            with contextlib.suppress(NodeExists):
                self._session.create(path, json.dumps({"pid": os.getpid()}).encode(), is_ephemeral=True)
                self._epoch = epoch

    # --------------------------------------------------------------------------------------------------------- asking

    def check(self) -> None:
        """Raise `UnsuitableFilesystem` unless the locks of the other hosts are seen here; `CoordinatorUnavailable`."""
        is_seen = False
        for other in self._session.children(self._holders):
            if other == self._host:
                continue
            before = self._session.get(f"{self._holders}/{other}")
            is_free = before is not None and self._is_free(other)
            after = self._session.get(f"{self._holders}/{other}")
            if before is None or after is None or before.czxid != after.czxid:
                continue  # it came or went meanwhile
            if is_free:
                self._refuse(other, after.czxid)
            is_seen = True
        if is_seen:
            self._note(is_good=True)
        elif not self._was_good():
            raise UnsuitableFilesystem(
                f"whether locks in {self._locks} hold between hosts is not known: no other host of the store holds one",
                hint="start envmgr's daemon on another host that mounts the store; without it nothing is deleted",
            )

    def _is_free(self, other: str) -> bool:
        try:
            fd = os.open(self._file(other), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True  # then it is not the same directory
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise UnsuitableFilesystem(f"flock does not work in {self._locks}: {error.strerror}", hint=_HINT) from error
        else:
            return True
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def _refuse(self, other: str, czxid: int) -> None:
        """Raise; and remember it once it cannot be a dead host's session that has not ended yet."""
        now = time.monotonic()
        since = self._free_since.setdefault(czxid, now)
        if now - since > 2 * self._session.endpoint.session_s:
            self._note(is_good=False)
        raise UnsuitableFilesystem(
            f"the lock that host {other} holds in {self._locks} does not exclude this one, so what is in use there is"
            " not seen here, and nothing is deleted",
            hint=f"if that host has just gone down, try again in a minute; else {_HINT}",
            host=other,
        )

    def _file(self, host: str) -> Path:
        return self._locks / f"flock-probe-{hashlib.sha256(host.encode()).hexdigest()[:16]}"

    def _mount(self) -> str:
        """Return what changes when this host mounts the store anew."""
        return f"{_BOOT_ID.read_text('ascii').strip()} {self._locks.stat().st_dev}"

    def _note(self, *, is_good: bool) -> None:
        if is_good == self._was_good():
            return
        data = json.dumps({"is_good": is_good, "mount": self._mount(), "at": time.time()}).encode()
        try:
            self._session.put(self._verdict, data)
        except NoNode:
            with contextlib.suppress(NodeExists):
                self._session.create(self._verdict, data)

    def _was_good(self) -> bool:
        node = self._session.get(self._verdict)
        try:
            document = json.loads(node.data) if node is not None else {}
        except (ValueError, RecursionError):
            return False
        is_good = isinstance(document, dict) and document.get("is_good") is True
        return is_good and document.get("mount") == self._mount()


def _taken(fd: int) -> bool:
    """Take a lock that others may try this very moment; tell whether nobody keeps it."""
    for _ in range(_TRIES):
        if try_exclusive(fd):
            return True
        time.sleep(_PAUSE_S)
    return try_exclusive(fd)
