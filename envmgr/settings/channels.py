"""From the words for channels to their URLs, as conda reads them.

A word is, in this order: a key of ``custom_multichannels``; ``defaults``; a URL; an absolute path; a word whose longest
leading part is in ``custom_channels``; a word below ``channel_alias``. A subdir at the end is dropped, a label
(``word/label/dev``) is part of the word. Relative paths are refused: what they mean depends on who asks.

Credentials come from the settings: standing in a URL there, they are also put into other URLs below the same place.
Those that stand literally in a spec are dropped; ``${NAME}`` in a spec may stand for some, within
``channel_variables``.

Source: conda's documentation, "Managing channels" and "Using the .condarc conda configuration file".
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from envmgr.errors import EnvmgrError, InvalidSpec, PolicyRefused, UsageError
from envmgr.model import Problem
from envmgr.settings.machine import SUBDIRS
from envmgr.settings.redact import join_credentials, redact, split_credentials

if TYPE_CHECKING:
    from envmgr.settings.loading import Settings

DEFAULTS = "defaults"
NODEFAULTS = "nodefaults"

_REFERENCE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")
_URL_KEY = re.compile(r'[\[,]url="([^"]*)"')
_SCHEMES = frozenset({"file", "ftp", "http", "https", "oci", "s3"})
_WORD_CHARS = re.compile(r"[A-Za-z0-9._+/-]+")


def of_spec(settings: Settings, word: str) -> tuple[str, ...]:
    """Return the URLs that a spec's channel stands for.

    Raises `InvalidSpec` for what is no channel, `PolicyRefused` for a ``${NAME}`` that the settings do not allow.
    """
    url, userinfo, token = split_credentials(word)
    try:
        return tuple(_urls(settings, _expand(settings, word if "$" in userinfo + token else url), ()))
    except ValueError as error:
        message = f"channel {redact(word)!r}: {error}"
        raise InvalidSpec(message, [Problem(0, 0, message)]) from None


def of_setting(settings: Settings, word: str, key: str) -> tuple[str, ...]:
    """Return the URLs that a channel in the setting `key` stands for; raise `UsageError` for what is none."""
    try:
        return tuple(_urls(settings, word, ()))
    except ValueError as error:
        raise UsageError(
            f"{settings.source_text(key)}: channel {redact(word)!r}: {error}", hint=f"setting {key}", key=key
        ) from None


def of_match_spec(match_spec: str) -> str | None:
    """Return the channel that a normalised MatchSpec asks for, by ``CHANNEL::`` or by its package's URL, if any."""
    asked, found, _ = match_spec.partition("[")[0].rpartition("::")
    if found:
        return asked
    url = _URL_KEY.search(match_spec)
    return url[1].rpartition("/")[0].rpartition("/")[0] if url else None


def without_credentials(urls: Iterable[str]) -> tuple[str, ...]:
    """Return URLs as they may be compared and shown."""
    return tuple(split_credentials(url)[0] for url in urls)


def _expand(settings: Settings, word: str) -> str:
    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name in settings.variables:
            return settings.variables[name]
        raise _no_variable(settings, word, name)

    return _REFERENCE.sub(value, word)


def _no_variable(settings: Settings, word: str, name: str) -> EnvmgrError:
    allowed = settings.channel_variables
    if allowed is None or name in allowed:
        return UsageError(f"channel {redact(word)!r}: the environment variable {name} is not set")
    return PolicyRefused(
        f"channel {redact(word)!r}: the setting channel_variables does not allow a spec to use the variable {name}",
        hint=f"name the channel in custom_channels, or add {name} to channel_variables",
        setting="channel_variables",
    )


def _urls(settings: Settings, word: str, above: tuple[str, ...]) -> Iterator[str]:
    members = settings.custom_multichannels.get(word)
    if members is None and word == DEFAULTS:
        members = settings.expand_defaults
    if members is None or word in above:
        # A word inside its own expansion is an ordinary channel, such as `conda-forge = ["conda-forge", "…"]`.
        yield _url(settings, word)
        return
    for member in members:
        yield from _urls(settings, member, (*above, word))


def _url(settings: Settings, word: str) -> str:
    if "://" in word:
        return _with_credentials(settings, _checked(_without_subdir(word.rstrip("/"))))
    if word.startswith("/"):
        return "file://" + urllib.parse.quote(_without_subdir(word.rstrip("/")))
    if word.startswith(("~", ".")):
        raise ValueError("a relative path means something else for everyone who asks; give an absolute one")
    word = _without_subdir(word.strip("/"))
    if not _WORD_CHARS.fullmatch(word) or any(part in ("", ".", "..") for part in word.split("/")):
        raise ValueError("neither a word, nor a URL, nor an absolute path")
    return f"{_location(settings, word)}/{word}"


def _location(settings: Settings, word: str) -> str:
    lead = word
    while lead:
        if lead in settings.custom_channels:
            return _checked(settings.custom_channels[lead].rstrip("/"))
        lead = lead.rpartition("/")[0]
    return settings.channel_alias


def _checked(url: str) -> str:
    if url.startswith("/"):
        return "file://" + urllib.parse.quote(url)
    scheme, found, rest = url.partition("://")
    is_clean = not any(char <= " " or char == "\\" for char in url)
    if not found or scheme not in _SCHEMES or not rest or not is_clean:
        raise ValueError("expected a URL of a kind that conda knows, or an absolute path")
    return url


def _without_subdir(word: str) -> str:
    head, _, tail = word.rpartition("/")
    return head if tail in SUBDIRS else word


def _with_credentials(settings: Settings, url: str) -> str:
    """Put the credentials of the settings into a URL that has none and lies below a place that has some."""
    if url != split_credentials(url)[0]:
        return url
    for place in _places(settings):
        base, userinfo, token = split_credentials(place)
        if (userinfo or token) and (url == base or url.startswith(f"{base}/")):
            return join_credentials(url, userinfo, token)
    return url


def _places(settings: Settings) -> Iterator[str]:
    """Yield the URLs in the settings, the most specific first."""
    named = (f"{place.rstrip('/')}/{word}" for word, place in settings.custom_channels.items())
    many = (word for words in settings.custom_multichannels.values() for word in words)
    places = [*named, *many, *settings.default_channels, *settings.expand_defaults]
    yield from sorted((place.rstrip("/") for place in places if "://" in place), key=len, reverse=True)
    yield settings.channel_alias
