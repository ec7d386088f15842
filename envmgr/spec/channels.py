"""Channels as identity keeps them.

A channel is a word (``conda-forge``, ``conda-forge/label/dev``, ``defaults``), a URL, or begins with ``${VAR}``, which
is kept unexpanded. Removed are a trailing slash, credentials, and a default port; scheme and host are in lower case.
An absolute path is its ``file://`` URL. The word and the URL of one channel stay different (an alias is a setting),
and the letter case of words and paths counts.

Refused: what means something else on each host (``local``, relative paths, ``~``), and a channel with a platform at
its end.
"""

from __future__ import annotations

import re

from envmgr.spec.platforms import is_subdir
from envmgr.spec.problems import Refusal, shown
from envmgr.spec.urls import is_url, parse_url

SCHEMES = ("file", "ftp", "http", "https", "oci", "s3")
CREDENTIALS = "credentials in a URL are not used"
CREDENTIALS_HINT = "they are no part of the name and are not stored; put them into netrc or rattler's auth file"
_WORD = re.compile(r"(?:\$\{[A-Za-z_][A-Za-z0-9_]*\}|\$[A-Za-z_][A-Za-z0-9_]*|[A-Za-z0-9_])[A-Za-z0-9._+/${}-]*")
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]")


def channel(text: str) -> tuple[str, bool]:
    """Return the normalised channel, and whether credentials were removed; raise `Refusal`."""
    text = text.strip()
    name, had_credentials = _location(text)
    if name.rpartition("/")[0] and is_subdir(name.rpartition("/")[2]):
        raise Refusal(f"the channel {shown(name)} ends with a platform", "name the channel without it")
    return name, had_credentials


def channel_and_subdir(text: str) -> tuple[str, str | None, bool]:
    """Read what stands before ``::`` in a requirement: a channel, perhaps followed by ``/SUBDIR``."""
    name, had_credentials = _location(text.strip())
    head, slash, last = name.rpartition("/")
    if slash and head and is_subdir(last):
        return head, last, had_credentials
    return name, None, had_credentials


def _location(text: str) -> tuple[str, bool]:
    if not text:
        raise Refusal("a channel has no name")
    if is_url(text):
        url = parse_url(text, schemes=SCHEMES)
        if url.query or url.fragment or "[" in url.path or "]" in url.path:
            raise Refusal(f"the channel {shown(str(url))} has a query, a fragment or brackets", "name its own URL")
        return str(url).rstrip("/"), url.had_credentials
    if text.startswith("/") and not text.startswith("//"):
        return str(parse_url("file://" + text, schemes=("file",))).rstrip("/"), False
    if text.startswith((".", "~")) or _WINDOWS.match(text):
        raise Refusal(
            f"the channel {shown(text)} is a path that means something else on each host",
            "write an absolute path or a URL",
        )
    name = text.rstrip("/")
    if name == "local":
        raise Refusal("the channel 'local' is another one on each host", "write its URL")
    if not _WORD.fullmatch(name) or "//" in name:
        many = "," in text or " " in text
        hint = "one channel for each item of the list" if many else "a name such as conda-forge, or a URL"
        raise Refusal(f"{shown(text)} is not a channel", hint)
    return name, False
