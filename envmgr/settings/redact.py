"""Take credentials out of text before it is shown or stored.

Known forms: ``scheme://user:password@host``, ``user:password@host`` (a proxy without scheme), conda's
``/t/<token>/`` path, and query parameters whose name speaks of a secret. What has none of these forms is not
recognised.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

HIDDEN = "***"

_USERINFO = re.compile(r"(?<![A-Za-z0-9+.-])(?P<scheme>[A-Za-z0-9+.-]+://)[^/?#\s]*@")
_BARE_USERINFO = re.compile(r"(?:^|(?<=[\s/@,]))(?P<words>[^\s/@,]+)@(?=[\w\[])")
_WORD = re.compile(r"[\w.-]*")
_TOKEN_PATH = re.compile(r"(?<=/t/)[^/\s?#]+")
_PARAMETER = re.compile(r"[?&;](?P<name>[\w.-]*)=")
_VALUE = re.compile(r"[^&;#\s]*")
_SECRET = re.compile(r"token|password|passwd|secret|signature|api_?key|auth", re.IGNORECASE)


def redact(text: str) -> str:
    """Return `text` with every recognised credential replaced by ``***``.

    Takes time in proportion to the text's length whatever it says, since whoever asks the daemon chooses it.
    """
    text = _USERINFO.sub(rf"\g<scheme>{HIDDEN}@", text)
    text = _BARE_USERINFO.sub(_without_user, text)
    text = _TOKEN_PATH.sub(HIDDEN, text)
    return _without_secret_values(text)


def redact_all(value: object, longest: int) -> object:
    """Return JSON whose texts are redacted, and cut to `longest` characters."""
    if isinstance(value, str):
        return redact(value[:longest])
    if isinstance(value, list | tuple):
        return [redact_all(item, longest) for item in value]
    if isinstance(value, Mapping):
        return {str(key): redact_all(item, longest) for key, item in value.items()}
    return value


def _without_user(match: re.Match[str]) -> str:
    """Return ``words@`` with ``***`` from where a user's name can begin that ``:`` and a password follow."""
    words, start = match["words"], 0
    if match.start() and match.string[match.start() - 1] in "/@":  # it ends a path or a host: no user begins with it
        word = _WORD.match(words)
        start = word.end() + 1 if word else 0
    while words.startswith(":", start):
        start += 1
    colon = words.find(":", start)
    has_password = 0 <= colon < len(words) - 1
    return f"{words[:start]}{HIDDEN}@" if has_password else match[0]


def _without_secret_values(text: str) -> str:
    pieces, done, at = [], 0, 0
    while parameter := _PARAMETER.search(text, at):
        at = parameter.end()
        if _SECRET.search(parameter["name"]):
            value = _VALUE.match(text, at)
            pieces += [text[done:at], HIDDEN]
            done = at = value.end() if value else at
    return "".join([*pieces, text[done:]])


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
