"""Which specs and lockfiles this site's settings allow.

Asked before anything is solved or downloaded, so that a refusal costs nothing and names its setting. What only the
solve can tell (that a package has no wheel, that it has a link script) the builder checks against the same settings.

What the site itself configured (``default_channels``, ``index_url``, …) is always allowed. A place is allowed when an
allowed place is equal to it or a directory above it; ``..`` in a URL is never allowed where places are restricted.

Not promised: that an allowed index is harmless, or that code which an environment runs stays within these rules.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from envmgr import lockfile
from envmgr.errors import PolicyRefused
from envmgr.settings import channels
from envmgr.settings.kinds import distribution_name
from envmgr.settings.redact import redact, split_credentials

if TYPE_CHECKING:
    from envmgr.model import LockedPackage, PipOption, Spec
    from envmgr.settings import Settings

_INDEX_FLAGS = frozenset({"--index-url", "-i", "--extra-index-url", "--find-links", "-f"})
_NAMED_URL = re.compile(r"\s*([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*@\s*(\S+)")
_BARE_URL = re.compile(r"\s*()([A-Za-z][A-Za-z0-9+.-]*:\S*)")
_EGG = re.compile(r"[#&]egg=([A-Za-z0-9._-]+)")


def check(spec: Spec, settings: Settings) -> None:
    """Raise `PolicyRefused`, with the setting in its fields, for the first thing in `spec` that is not allowed."""
    if spec.is_lockfile:
        check_packages(lockfile.parse(spec.source_text, settings.subdir).packages, settings)
    for url in _channel_urls(spec, settings):
        _check_channel(url, settings)
    for option in spec.pip_options:
        _check_option(option, settings)
    for item in (*spec.pip, *spec.pip_constraints):
        found = _NAMED_URL.match(item.requirement) or _BARE_URL.match(item.requirement)
        if found:
            egg = _EGG.search(found[2])
            name = found[1] or (egg[1] if egg else "")
            _check_archive(found[2], name, f"pip requirement {redact(item.requirement)!r}", settings)


def check_packages(packages: Iterable[LockedPackage], settings: Settings) -> None:
    """Raise `PolicyRefused` for the first package of a caller's lockfile that comes from where it may not."""
    for package in packages:
        if package.manager == "conda":
            _check_channel(package.url, settings)
        else:
            _check_archive(package.url, package.name, f"pip package {package.name}", settings)


def _channel_urls(spec: Spec, settings: Settings) -> Iterator[str]:
    for word in spec.channels:
        if word != channels.NODEFAULTS:
            yield from channels.of_spec(settings, word)
    for item in spec.conda:
        asked = channels.of_match_spec(item.match_spec)
        if asked is not None:
            yield from channels.of_spec(settings, asked)


def _check_channel(url: str, settings: Settings) -> None:
    if settings.allowed_channels is None:
        return
    allowed = [
        place
        for key, words in (
            ("allowed_channels", settings.allowed_channels),
            ("default_channels", settings.default_channels),
        )
        for word in words
        if word != channels.NODEFAULTS
        for place in channels.of_setting(settings, word, key)
    ]
    if not _is_below(url, allowed):
        listed = ", ".join(map(redact, settings.allowed_channels)) or "none but the default ones"
        raise PolicyRefused(
            f"channel {_shown(url)} is not among the allowed channels",
            hint=f"setting allowed_channels: {listed}",
            rule="channel",
            setting="allowed_channels",
        )


def _check_option(option: PipOption, settings: Settings) -> None:
    if option.flag in _INDEX_FLAGS:
        _check_place(option.value, f"pip option {option.flag} {_shown(option.value)}", settings)
    elif option.flag == "--no-binary" and settings.allow_sdists is not None:
        for name in option.value.replace(",", " ").split():
            _check_sdist(name, f"pip option --no-binary {option.value}", settings)


def _check_archive(url: str, name: str, what: str, settings: Settings) -> None:
    """Check a URL that pip installs from directly: a repository, an archive of sources, or a wheel."""
    scheme = url.partition(":")[0].lower()
    if "+" in scheme or scheme in ("git", "ssh"):
        if not settings.allow_git_urls:
            raise PolicyRefused(
                f"{what} comes from version control",
                hint="setting allow_git_urls",
                rule="git-url",
                setting="allow_git_urls",
            )
        # Only the place matters for the rest, not by which program it is fetched.
        url = f"{scheme.rpartition('+')[2]}://{url.partition('://')[2]}"
        _check_sdist(name, what, settings)
    elif not urllib.parse.urlsplit(url).path.lower().endswith(".whl"):
        _check_sdist(name, what, settings)
    _check_place(url, what, settings)


def _check_sdist(name: str, what: str, settings: Settings) -> None:
    allowed = settings.allow_sdists
    if allowed is None or (name and distribution_name(name) in allowed):
        return
    raise PolicyRefused(
        f"{what} would be built from source, which runs its code",
        hint=f"setting allow_sdists: add {distribution_name(name)!r}" if name else "setting allow_sdists",
        rule="sdist",
        setting="allow_sdists",
        package=name or None,
    )


def _check_place(url: str, what: str, settings: Settings) -> None:
    if not settings.allowed_indexes:
        return
    own = (*settings.extra_index_urls, *settings.find_links, *filter(None, (settings.index_url,)))
    if not _is_below(url, (*settings.allowed_indexes, *own)):
        raise PolicyRefused(
            f"{what} is not below an allowed index",
            hint=f"setting allowed_indexes: {', '.join(map(redact, settings.allowed_indexes))}",
            rule="index",
            setting="allowed_indexes",
        )


def _is_below(url: str, places: Iterable[str]) -> bool:
    wanted = _normal(url)
    if "\\" in url or any(char <= " " for char in url) or ".." in urllib.parse.unquote(wanted).split("/"):
        return False
    return any(wanted == place or wanted.startswith(f"{place}/") for place in map(_normal, places))


def _normal(url: str) -> str:
    """Return a place without credentials, query and final slash, its scheme and host in lower case."""
    if url.startswith("/"):
        url = f"file://{url}"
    scheme, _, rest = split_credentials(url)[0].partition("://")
    host, slash, path = re.split(r"[?#]", rest, maxsplit=1)[0].partition("/")
    return f"{scheme.lower()}://{host.lower()}{slash}{path}".rstrip("/")


def _shown(url: str) -> str:
    return redact(split_credentials(url)[0])
