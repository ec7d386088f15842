"""URLs as identity keeps them: scheme and host in lower case, no default port, no credentials; nothing else changes.

Credentials are user and password in front of the host, and conda's tokens (``/t/TOKEN/`` at the start of the path).
A user name without a password stays in ssh URLs, where it is an address and no secret. ``${VAR}`` is not expanded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from envmgr.spec.problems import Refusal, shown

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?")
_ALLOWED = re.compile(r"[!#-;=?-\[\]_a-z{}~]*")
_HOST = re.compile(r"(?:[A-Za-z0-9._~${}%-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]+))?")
_DEFAULT_PORTS = {"http": "80", "https": "443", "ftp": "21", "git+http": "80", "git+https": "443"}
_TOKEN = re.compile(r"/t/[^/]+(/|$)")

_SECRET_USER = re.compile(r"\b((?:git\+)?(?:https?|ftp|s3|oci)://)[^\s/?#\"'<>]*@", re.IGNORECASE)
_SECRET_SSH = re.compile(r"\b((?:git\+)?ssh://[^\s/?#\"'<>@:]*):[^\s/?#\"'<>]*@", re.IGNORECASE)
_SECRET_TOKEN = re.compile(r"\b(https?://[^\s/?#\"'<>]+)/t/[^\s/?#\"'<>,\]}]+(/|(?=[\s\"',\]}]|$))", re.IGNORECASE)


class Url(NamedTuple):
    """A normalised URL in parts; `query` and `fragment` with their mark, or empty; `had_credentials` if removed."""

    scheme: str
    host: str
    path: str
    query: str
    fragment: str
    had_credentials: bool

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}{self.path}{self.query}{self.fragment}"


def is_url(text: str) -> bool:
    """Tell whether `text` begins like a URL (``scheme://``)."""
    return _URL.match(text) is not None


def parse_url(text: str, *, schemes: Iterable[str]) -> Url:
    """Normalise a URL; raise `Refusal` for another scheme, or for text that is no URL."""
    match = _URL.fullmatch(text)
    if match is None or not _ALLOWED.fullmatch("".join(part or "" for part in match.groups()[2:])):
        raise Refusal(f"{shown(text)} is not a URL", "percent-encode spaces and special characters")
    scheme, authority, path, query, fragment = (part or "" for part in match.groups())
    scheme = scheme.lower()
    if scheme not in schemes:
        raise Refusal(f"{scheme}:// is not supported here", f"one of: {', '.join(sorted(schemes))}")
    user, at, host = authority.rpartition("@")
    host = _host(scheme, host, text)
    had_credentials = bool(at)
    if scheme.endswith("ssh") and at:
        user, colon, _ = user.partition(":")
        host, had_credentials = f"{user}@{host}", bool(colon)
    if token := _TOKEN.match(path):
        path, had_credentials = path[token.end() - len(token.group(1)) :], True
    return Url(scheme, host, path, query, fragment, had_credentials)


def _host(scheme: str, host: str, text: str) -> str:
    if not host and scheme == "file":
        return host
    match = _HOST.fullmatch(host)
    if match is None:
        raise Refusal(
            f"the URL {shown(text)} has no readable host",
            "percent-encode special characters in credentials, or keep them out of the URL",
        )
    if match.group(1) and match.group(1) == _DEFAULT_PORTS.get(scheme):
        host = host[: match.start(1) - 1]
    return host if "$" in host else host.lower()


def redact(text: str, kept: Iterable[tuple[int, int]] = ()) -> str:
    """Return `text` without the credentials of its URLs, except within the `kept` spans of offsets."""
    spans = sorted(kept)
    pieces, last = [], 0
    for start, end in [*spans, (len(text), len(text))]:
        if start < last:
            continue
        piece = _SECRET_USER.sub(r"\1", text[last:start])
        piece = _SECRET_SSH.sub(r"\1@", piece)
        pieces += [_SECRET_TOKEN.sub(r"\1\2", piece), text[start:end]]
        last = end
    return "".join(pieces)
