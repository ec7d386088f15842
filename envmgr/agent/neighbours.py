"""The other hosts of the cluster, as far as this one has to know: how many there are, and which give archives.

What is asked for here costs the same however many hosts there are, and nothing at rest.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from envmgr.agent import givers
from envmgr.cluster.absent import sweep_absent
from envmgr.coordination.zookeeper import tree as paths

if TYPE_CHECKING:
    from envmgr.coordination.zookeeper.nodes import Tree
    from envmgr.names import EnvName
    from envmgr.ports import Clock, Siblings
    from envmgr.settings import Settings

SIBLINGS_S = 30.0
_MANY_HOSTS = 100


class Neighbours:
    """See the module; for the agent's thread, but for `count`. Everything raises `CoordinatorUnavailable`."""

    def __init__(
        self,
        tree: Tree,
        clock: Clock,
        tell: Callable[[Siblings], None],
        *,
        settings_of: Callable[[], Settings],
        archives: Callable[[], str | None],
    ) -> None:
        """`tell` hears which hosts give archives; `archives` is where this one does."""
        self.count = 1
        """How many hosts there were at the last look."""
        self._tree = tree
        self._clock = clock
        self._tell = tell
        self._settings_of = settings_of
        self._archives = archives
        self._looked_at = float("-inf")

    def look_around(self, host: str) -> None:
        """Read how many hosts there are, and which give archives; `host` is this one's name."""
        hosts = self._tree.get(paths.HOSTS)
        self.count = 1 if hosts is None else max(1, hosts.children)
        if self._settings_of().share_archives:
            self._tell(givers.found(self._tree, host, self._archives()))

    def look_around_again(self, host: str) -> None:
        """Do so before something is made, unless the last time was a moment ago."""
        now = self._clock.monotonic()
        if now >= self._looked_at + SIBLINGS_S:
            self._looked_at = now
            self.look_around(host)

    def sweep(self, host: str, absent: Collection[EnvName]) -> None:
        """Delete intents that are ``absent`` everywhere, if this is the host that does that."""
        if absent and self._is_sweeper(host):
            sweep_absent(self._tree, self._clock, absent)

    def _is_sweeper(self, host: str) -> bool:
        if self.count > _MANY_HOSTS:  # who is the first of thousands is not worth the list of all, for each of them
            return random.random() * self.count < 1  # noqa: S311 - no secret
        hosts = self._tree.children(paths.HOSTS)
        self.count = max(1, len(hosts))
        return hosts[:1] == (host,)
