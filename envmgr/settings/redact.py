"""Take credentials out of text before it is shown or stored.

Known forms: ``scheme://user:password@host``, ``user:password@host`` (a proxy without scheme), conda's
``/t/<token>/`` path, and query parameters whose name speaks of a secret. What has none of these forms is not
recognised.
"""

from __future__ import annotations

import re

HIDDEN = "***"

_USERINFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)[^/?#\s]*@")
_BARE_USERINFO = re.compile(r"(?<![\w/@.-])[^\s/:@,]+:[^\s/@,]+@(?=[\w\[])")
_TOKEN_PATH = re.compile(r"(?<=/t/)[^/\s?#]+")
_QUERY = re.compile(
    r"(?P<name>[?&;][\w.-]*(?:token|password|passwd|secret|signature|api_?key|auth)[\w.-]*=)[^&;#\s]*", re.IGNORECASE
)


def redact(text: str) -> str:
    """Return `text` with every recognised credential replaced by ``***``."""
    text = _USERINFO.sub(rf"\g<scheme>{HIDDEN}@", text)
    text = _BARE_USERINFO.sub(f"{HIDDEN}@", text)
    text = _TOKEN_PATH.sub(HIDDEN, text)
    return _QUERY.sub(rf"\g<name>{HIDDEN}", text)


def split_credentials(url: str) -> tuple[str, str, str]:
    """Return a URL without credentials, its ``user:password`` and its conda token; each empty where there is none."""
    scheme, found, rest = url.partition("://")
    if not found:
        return url, "", ""
    # What ends the host must be what ends it for those who fetch: a backslash does, too (WHATWG's URL standard).
    end = min((at for at in map(rest.find, "/?#\\") if at >= 0), default=len(rest))
    userinfo, _, host = rest[:end].rpartition("@")
    path, token = rest[end:], ""
    if host and path.startswith("/t/"):
        token, slash, path = path[3:].partition("/")
        path = slash + path
    return f"{scheme}://{host}{path}", userinfo, token


def join_credentials(url: str, userinfo: str, token: str) -> str:
    """Put back what `split_credentials` took out."""
    scheme, found, rest = url.partition("://")
    if not found:
        return url
    host, slash, path = rest.partition("/")
    who = f"{userinfo}@" if userinfo else ""
    what = f"/t/{token}" if token else ""
    return f"{scheme}://{who}{host}{what}{slash}{path}"
