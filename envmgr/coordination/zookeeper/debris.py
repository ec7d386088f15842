"""Nodes of claims that could not be deleted when their time was over, and the empty nodes above them.

A contender that gives up while ZooKeeper does not answer, or whose node may or may not have been made, would otherwise
leave a node that nobody stands for, and that holds everybody up for as long as the session lives (kazoo issue 732). It
is remembered here, and a thread that lives only while there is something to do deletes it once ZooKeeper answers.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envmgr.coordination.zookeeper.nodes import NoNode, TreeError
from envmgr.errors import CoordinatorUnavailable, EnvmgrError

if TYPE_CHECKING:
    from envmgr.coordination.zookeeper.session import Session

_PAUSE_S = 0.1
_CONNECT_S = 5.0
_TIDY_S = 1.0
_FAREWELL_S = 0.5
_DEEPEST = 3
"""``/v1/claims/<kind>`` stays; what is deeper is removed when it is empty."""


@dataclass(frozen=True, slots=True)
class _Left:
    """What one session left below `path`: nodes whose names begin with `mark`."""

    epoch: int
    path: str
    mark: str


class Debris:
    """What is to be deleted; any thread."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._changed = threading.Condition()
        self._left: dict[_Left, None] = {}
        self._sweeper: threading.Thread | None = None
        self._is_closed = False
        self._empty: dict[str, float] = {}
        session.at_close(self._tidy_now, self.close)

    def add(self, path: str, mark: str) -> None:
        """Have the nodes below `path` whose names begin with `mark` deleted; returns at once."""
        with self._changed:
            if self._is_closed:
                return
            self._left[_Left(self._session.epoch, path, mark)] = None
            self._ensure_sweeper()
            self._changed.notify_all()

    def tidy(self, path: str) -> None:
        """Have `path` and what is above it deleted where it is empty, a little later: who comes soon finds it there.

        Who comes in between, or right after, makes again what is missing.
        """
        with self._changed:
            if not self._is_closed:
                self._empty.pop(path, None)  # so that they stand in the order in which they are due
                self._empty[path] = time.monotonic() + _TIDY_S
                self._ensure_sweeper()

    def close(self) -> None:
        """End; what is left goes with the session."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            sweeper = self._sweeper
        if sweeper is not None:
            sweeper.join()

    def _ensure_sweeper(self) -> None:
        if self._sweeper is None:
            self._sweeper = threading.Thread(target=self._sweep, name="envmgr-zookeeper-sweep", daemon=True)
            self._sweeper.start()

    def _sweep(self) -> None:
        while (work := self._next()) is not None:
            if isinstance(work, str):
                self._session.delete_empty_unheard(_upwards(work))
                continue
            is_over = work.epoch != self._session.epoch  # it went with its session
            if is_over or (self._session.wait_connected(_CONNECT_S) and self._delete(work)):
                with self._changed:
                    self._left.pop(work, None)
            else:
                with self._changed:
                    self._changed.wait_for(lambda: self._is_closed, _PAUSE_S)

    def _next(self) -> _Left | str | None:
        """Return what is to be done next, a node that may be empty, or ``None`` when there is nothing any more."""
        with self._changed:
            while not (self._is_closed or self._session.is_closed):
                if self._left:
                    return next(iter(self._left))
                if not self._empty:
                    break
                path, due = next(iter(self._empty.items()))
                wait_s = due - time.monotonic()
                if wait_s <= 0:
                    del self._empty[path]
                    return path
                self._changed.wait_for(lambda: self._is_closed or self._left, wait_s)
            self._sweeper = None
            return None

    def _tidy_now(self) -> None:
        """Delete empty nodes before the session ends, if that is quickly done."""
        with self._changed:
            paths, self._empty = tuple(self._empty), {}
        end = time.monotonic() + _FAREWELL_S
        for path in paths:
            with contextlib.suppress(EnvmgrError, TreeError):
                for node in _upwards(path):
                    if not self._session.is_connected or time.monotonic() > end:
                        return
                    self._session.delete(node, timeout_s=_FAREWELL_S)

    def _delete(self, left: _Left) -> bool:
        try:
            self._session.sync()  # whatever was under way when we gave up is seen after this
            for name in self._session.children(left.path):
                if name.startswith(left.mark):
                    self._session.delete(f"{left.path}/{name}")
        except NoNode:
            return False  # look again
        except CoordinatorUnavailable:
            return False
        except EnvmgrError:
            return True  # it is not ours to delete, and will never be
        self.tidy(left.path)
        return True


def _upwards(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:end]) for end in range(len(parts), _DEEPEST + 1, -1)]
