"""Nodes of claims that could not be deleted when their time was over, and the empty nodes above them.

A contender that gives up while ZooKeeper does not answer, or whose node may or may not have been made, would otherwise
leave a node that nobody stands for, and that holds everybody up for as long as the session lives (kazoo issue 732). It
is remembered here, and a thread that lives only while there is something to do deletes it once ZooKeeper answers.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envmgr.coordination.zookeeper.nodes import NoNode
from envmgr.errors import CoordinatorUnavailable, EnvmgrError

if TYPE_CHECKING:
    from envmgr.coordination.zookeeper.session import Session

_PAUSE_S = 0.1
_CONNECT_S = 5.0
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
        session.at_close(self.close)

    def add(self, path: str, mark: str) -> None:
        """Have the nodes below `path` whose names begin with `mark` deleted; returns at once."""
        with self._changed:
            if self._is_closed:
                return
            self._left[_Left(self._session.epoch, path, mark)] = None
            if self._sweeper is None:
                self._sweeper = threading.Thread(target=self._sweep, name="envmgr-zookeeper-sweep", daemon=True)
                self._sweeper.start()

    def tidy(self, path: str) -> None:
        """Have `path` and what is above it deleted where it is empty; returns at once, and may fail unheard.

        Who makes a node in between makes those above it again.
        """
        parts = path.split("/")
        self._session.delete_empty_unheard(["/".join(parts[:end]) for end in range(len(parts), _DEEPEST + 1, -1)])

    def close(self) -> None:
        """End; what is left goes with the session."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            sweeper = self._sweeper
        if sweeper is not None:
            sweeper.join()

    def _sweep(self) -> None:
        while (left := self._next()) is not None:
            is_over = left.epoch != self._session.epoch  # it went with its session
            if is_over or (self._session.wait_connected(_CONNECT_S) and self._delete(left)):
                with self._changed:
                    self._left.pop(left, None)
            else:
                with self._changed:
                    self._changed.wait_for(lambda: self._is_closed, _PAUSE_S)

    def _next(self) -> _Left | None:
        with self._changed:
            if self._is_closed or self._session.is_closed or not self._left:
                self._sweeper = None
                return None
            return next(iter(self._left))

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
