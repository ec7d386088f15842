"""The hosts that give archives to the others: a short list, which costs each host one read, however many there are.

``/v1/archives`` has an ephemeral node for some of the hosts that give; its name is the host's and the URL where it
gives, so that a list of the names says all. A host that gives enters itself when it joins, and again before it makes
something, unless `MOST` are there. So every host knows the same few.

Thousands may find the list empty at the same moment: after a power failure, they all join at once. So each that finds
room stands below ``/v1/giving`` first, sees how many stand there, and enters by lot: with all of them there, about as
many do as there is room for. Where no more give than there is room, each is sure to. If a few too many have entered,
all hosts choose the same `MOST` of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from envmgr.coordination.zookeeper import tree as paths
from envmgr.coordination.zookeeper.nodes import NodeExists
from envmgr.ports import Siblings

if TYPE_CHECKING:
    from envmgr.coordination.zookeeper.nodes import Tree

MOST = 32


def found(tree: Tree, host: str, url: str | None, *, draw: Callable[[], float] = random.random) -> Siblings:
    """Return who gives archives, after entering this host if it gives some (`url`) and the lot of `draw` lets it.

    One that is not chosen ranks nowhere, for nobody waits for it: it takes from those that are. `draw` returns from 0
    up to but not including 1. Raises `CoordinatorUnavailable`.
    """
    words = (word.partition("@") for word in tree.children(paths.ARCHIVES))
    urls = {name: unquote(rest) for name, _, rest in words if rest}
    if url is not None and urls.get(host) != url and _may_enter(tree, host, len(urls), draw):
        with contextlib.suppress(NodeExists):
            tree.create(f"{paths.ARCHIVES}/{host}@{quote(url, safe='')}", is_ephemeral=True)
        urls[host] = url
    chosen = sorted(urls, key=lambda name: hashlib.sha256(name.encode()).digest())[:MOST]
    others = tuple(urls[name] for name in chosen if name != host)
    return Siblings(url, others, is_ranked=host in chosen and urls[host] == url)


def _may_enter(tree: Tree, host: str, entered: int, draw: Callable[[], float]) -> bool:
    if entered >= MOST:
        return False
    with contextlib.suppress(NodeExists):
        tree.create(f"{paths.GIVING}/{host}", is_ephemeral=True)
    giving = tree.get(paths.GIVING)
    without = 0 if giving is None else giving.children - entered
    return draw() * without < MOST - entered
