"""Takes out of a URL what nobody else may read."""

from __future__ import annotations

import re

_USERINFO = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]*://)([^/?#@]*(?:@[^/?#@]*)*)@")
_TOKEN = re.compile(r"/t/(?!\$)[^/]+(?=/)")


def strip_credentials(url: str) -> str:
    """Return `url` without user name, password and conda token (``/t/<token>/``).

    The user name of an ssh URL stays: it is part of the address there. So does a token that is only the name of an
    environment variable (``/t/$TOKEN/``).
    """
    match = _USERINFO.match(url)
    if match:
        scheme, userinfo = match.groups()
        kept = userinfo.split(":", 1)[0] + "@" if scheme.endswith("ssh://") else ""
        url = scheme + kept + url[match.end() :]
    scheme, separator, rest = url.partition("://")
    return scheme + separator + _TOKEN.sub("", rest) if separator else url
