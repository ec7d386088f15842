"""The hosts that give archives to the others: a short list, which costs each host one read, however many there are.

``/v1/archives`` has an ephemeral node for some of the hosts that give; its name is the host's and the URL where it
gives, so that a list of the names says all. A host that gives enters itself when it joins, and again before it makes
something, unless `MOST` are there. So every host knows the same few; a little over `MOST` when many join at once, of
which all choose the same `MOST`.
"""

from __future__ import annotations

import contextlib
import hashlib
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from envmgr.coordination.zookeeper import tree as paths
from envmgr.coordination.zookeeper.nodes import NodeExists
from envmgr.ports import Siblings

if TYPE_CHECKING:
    from envmgr.coordination.zookeeper.nodes import Tree

MOST = 32


def found(tree: Tree, host: str, url: str | None) -> Siblings:
    """Return who gives archives, after entering this host if it gives some (`url`) and there is room.

    One that is not chosen ranks nowhere, for nobody waits for it: it takes from those that are. Raises
    `CoordinatorUnavailable`.
    """
    words = (word.partition("@") for word in tree.children(paths.ARCHIVES))
    urls = {name: unquote(rest) for name, _, rest in words if rest}
    if url is not None and urls.get(host) != url and len(urls) < MOST:
        with contextlib.suppress(NodeExists):
            tree.create(f"{paths.ARCHIVES}/{host}@{quote(url, safe='')}", is_ephemeral=True)
        urls[host] = url
    chosen = sorted(urls, key=lambda name: hashlib.sha256(name.encode()).digest())[:MOST]
    others = tuple(urls[name] for name in chosen if name != host)
    return Siblings(url, others, is_ranked=host in chosen and urls[host] == url)
