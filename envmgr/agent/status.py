"""What a host says of itself in ZooKeeper: one document, and its builds' progress while there are builds.

Written only when something changed, by compare-and-set, at most `BURST` times in a row and then every `PAUSE_S`
seconds. A document that another instance wrote is replaced only by who has just made sure that the name is his
(`envmgr.agent.membership`). The progress is an ephemeral node; losing it loses nothing.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from envmgr.coordination.zookeeper import tree as paths
from envmgr.coordination.zookeeper.nodes import BadVersion, NodeExists, NoNode
from envmgr.wire.tree import LARGEST_NODE_BYTES, EnvironmentStatus, HostProgress, HostStatus, Progress, encode

if TYPE_CHECKING:
    from envmgr.coordination.zookeeper.nodes import Tree
    from envmgr.ports import Clock

PAUSE_S = 2.0
BURST = 3
PROGRESS_S = 2.0
_SHORT = 80
_LONGEST_PROBLEM = 2000


class StatusWriter:
    """See the module; for the agent's thread alone."""

    def __init__(self, tree: Tree, clock: Clock, host: str) -> None:
        self.host = host
        self.has_vanished = False
        """Whether the document was gone: somebody forgot the host, or emptied the tree. `begin` makes it anew."""
        self.was_known = False
        """Whether this host was ever known to the cluster under this name, see `make_known`."""
        self._tree = tree
        self._clock = clock
        self._version: int | None = None
        self._is_read = False
        self._told: HostStatus | None = None
        self._due: HostStatus | None = None
        self._tokens = float(BURST)
        self._counted_at = clock.monotonic()
        self._progress: HostProgress | None = None
        self._progress_due: HostProgress | None = None
        self._progress_at = -PROGRESS_S
        self._has_progress_node = False

    def begin(self) -> None:
        """Read what stands there: a new session of ZooKeeper, or a new name."""
        self._is_read = self.has_vanished = False
        self._told = None
        self._progress = None

    def make_known(self, status: HostStatus) -> bool:
        """Write a first document where none stands; tell whether the host may have been unknown until now.

        Only a host that is known is waited for until it has obeyed an ``absent``: before that it begins nothing. Costs
        nothing once it is known and its document was read.
        """
        if (self._is_read and self.was_known) or self.has_vanished:
            return False
        path = paths.status(self.host)
        node = self._tree.get(path)
        is_new = node is None or not self.was_known
        if node is None:
            with contextlib.suppress(NodeExists):  # an earlier instance of this host's: then it is known as well
                node = self._tree.create(path, encode(status))
        self._version = None if node is None else node.version
        self._is_read = node is not None
        self.was_known = True
        return is_new

    def tell(self, status: HostStatus, builds: tuple[Progress, ...]) -> None:
        """Have this written with the next `flush` that may."""
        told = self._told
        self._due = None if told is not None and replace(status, at=told.at) == told else status
        progress = HostProgress(host=self.host, builds=builds)
        self._progress_due = None if progress == (self._progress or HostProgress(host=self.host)) else progress

    def flush(self, *, is_last: bool = False) -> float | None:
        """Write what is due, as far as it may be now; return when the rest may be (monotonic), ``None``: all is told.

        Raises `CoordinatorUnavailable`; then it stays due. `is_last`: at once, and the progress goes.
        """
        if self.has_vanished:
            return None
        now = self._clock.monotonic()
        self._tokens = min(float(BURST), self._tokens + (now - self._counted_at) / PAUSE_S)
        self._counted_at = now
        later = []
        if self._due is not None:
            if self._tokens >= 1.0 or is_last:
                self._tokens = max(0.0, self._tokens - 1.0)
                if not self._write(self._due):
                    return now + PAUSE_S
                self._told, self._due = self._due, None
            else:
                later.append(now + (1.0 - self._tokens) * PAUSE_S)
        if is_last:
            self._progress_due = HostProgress(host=self.host)
        if self._progress_due is not None:
            is_end = not self._progress_due.builds
            if now >= self._progress_at + PROGRESS_S or is_end:
                self._progress_at = now
                self._write_progress(self._progress_due)
                self._progress, self._progress_due = self._progress_due, None
            else:
                later.append(self._progress_at + PROGRESS_S)
        return min(later, default=None)

    def _write(self, status: HostStatus) -> bool:
        """Write the document; tell whether it could be, see `has_vanished`."""
        path = paths.status(self.host)
        data = encode(status)
        if len(data) > LARGEST_NODE_BYTES:
            environments = tuple(map(_shortened, status.environments))
            # The words may be of a tree that somebody else damaged: they silence no host.
            problem = None if status.problem is None else status.problem[:_LONGEST_PROBLEM]
            data = encode(replace(status, environments=environments, problem=problem))
        for _ in range(3):  # an earlier instance of this host writes a last time
            if not self._is_read:
                node = self._tree.get(path)
                self._version = None if node is None else node.version
                self._is_read = True
            try:
                if self._version is None:
                    self._version = self._tree.create(path, data).version
                else:
                    self._version = self._tree.put(path, data, version=self._version).version
                return True
            except NoNode:
                self.has_vanished = True
                return False
            except (BadVersion, NodeExists):
                self._is_read = False
            except BaseException:
                self._is_read = False  # it may have been written, although nobody heard the answer
                raise
        return False

    def _write_progress(self, progress: HostProgress) -> None:
        path = paths.progress(self.host)
        if not progress.builds:
            with contextlib.suppress(NoNode):
                self._tree.delete(path)
            return
        data = encode(progress)
        try:
            self._tree.put(path, data)
        except NoNode:
            with contextlib.suppress(NodeExists):  # an earlier session's, which goes by itself
                self._tree.create(path, data, is_ephemeral=True)


def _shortened(status: EnvironmentStatus) -> EnvironmentStatus:
    if status.error is None:
        return status
    error = {"code": status.error.get("code"), "message": str(status.error.get("message"))[:_SHORT], "hint": None}
    return replace(status, error=error)
