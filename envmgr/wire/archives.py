"""How the hosts of a cluster give each other archives: plain HTTP/1.1, one request a connection.

::

    GET /archives/<sha256>?for=<name>&class=<machine class>

    200  the bytes, with Content-Length
    202  they are coming: this host fetches them, or it makes or is about to make <name> for that machine class.
         Envmgr-Progress changes for as long as it gets on; its value means nothing else
    404  they are not here, and not coming
    503  it gives to as many as it may; ask again after Retry-After

The sha256 that the asker computes decides what is believed; so there is no TLS, and neither side proves who it is. What
can be learnt by asking is whether a host has an archive whose sha256 one knows, and its bytes: the address belongs into
a network in which that may be known.
"""

from __future__ import annotations

import re
from urllib.parse import quote

PROGRESS = "Envmgr-Progress"
_HOST = r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,64}(?:%[A-Za-z0-9._-]{1,32})?\]"
_URL = re.compile(rf"http://(?:{_HOST}):[0-9]{{1,5}}", re.ASCII)


def is_url(url: str) -> bool:
    """Tell whether this is where a host may give archives: a host and a port, and nothing that chooses what is asked.

    Any host of the cluster can write such URLs; with a path of his own, or the way of another protocol, he could have
    the others ask their neighbours for what he likes.
    """
    return _URL.fullmatch(url) is not None


def target(sha256: str, name: str, machine_class: str) -> str:
    """Return what is asked for, below the URL of a host's archives."""
    return f"/archives/{sha256}?for={quote(name)}&class={quote(machine_class)}"
