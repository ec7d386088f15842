"""From the settings to what the builder is told: channels, network, pip.

A module apart from `envmgr.settings`, because the builder's records cost a start-up that reading settings does not
need.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from envmgr.errors import UsageError
from envmgr.settings import channels as words
from envmgr.settings.kinds import CREDENTIAL
from envmgr.settings.machine import is_selected
from envmgr.settings.redact import redact
from envmgr.wire.pipe import Channel, Network, PipSettings

if TYPE_CHECKING:
    from envmgr.model import PipRequirement, Spec
    from envmgr.settings.loading import Settings


def network(settings: Settings) -> Network:
    """Return how the builder reaches channels and indexes; raise `UsageError` for a file that is not there."""
    return Network(
        is_offline=settings.offline,
        verify_tls=settings.verify_tls,
        ca_file=_existing(settings, "ca_file", settings.ca_file),
        proxies=tuple((key, _proxy(key, value)) for key, value in sorted(settings.proxies.items())),
        mirrors=tuple((prefix, tuple(mirrors)) for prefix, mirrors in sorted(settings.mirrors.items())),
        netrc_file=_existing(settings, "netrc_file", settings.netrc_file),
        auth_file=_existing(settings, "auth_file", settings.auth_file),
        timeout_s=settings.timeout_s,
        max_retries=settings.max_retries,
        parallel_downloads=settings.parallel_downloads,
    )


def pip_settings(settings: Settings, spec: Spec) -> PipSettings:
    """Return how the pip section is solved; the spec's own options come after ``--no-index`` of the settings."""
    own = tuple((option.flag, option.value) for option in spec.pip_options)
    return PipSettings(
        options=(("--no-index", ""), *own) if settings.no_index and ("--no-index", "") not in own else own,
        index_url=settings.index_url,
        extra_index_urls=settings.extra_index_urls,
        find_links=settings.find_links,
        allow_sdists=settings.allow_sdists,
        allow_replacing_conda=settings.allow_replacing_conda,
        constraints=_lines(spec.pip_constraints, settings.subdir),
    )


def conda(spec: Spec, subdir: str) -> tuple[str, ...]:
    """Return the MatchSpecs that count on `subdir`."""
    return tuple(item.match_spec for item in spec.conda if is_selected(item.platforms, subdir))


def pip(spec: Spec, subdir: str) -> tuple[str, ...]:
    """Return the pip requirements that count on `subdir`, as lines of a requirements file (with ``--hash=``)."""
    return _lines(spec.pip, subdir)


def _lines(requirements: tuple[PipRequirement, ...], subdir: str) -> tuple[str, ...]:
    return tuple(
        " ".join((item.requirement, *(f"--hash={digest}" for digest in item.hashes)))
        for item in requirements
        if is_selected(item.platforms, subdir)
    )


def channels(settings: Settings, spec: Spec, subdir: str) -> tuple[Channel, ...]:
    """Return where packages may come from, highest priority first.

    The spec's own channels, then ``default_channels`` unless it says ``nodefaults``, then those that only a
    requirement names (``channel::package``), as conda does. A channel that appears twice counts where it is first.
    """
    found: dict[tuple[str, ...], Channel] = {}
    for channel in _all_channels(settings, spec, subdir):
        found.setdefault(words.without_credentials(channel.urls), channel)
    return tuple(found.values())


def default_channels(settings: Settings) -> tuple[Channel, ...]:
    """Return the channels that are searched after a spec's own."""
    return tuple(
        Channel(redact(word), words.of_setting(settings, word, "default_channels"))
        for word in settings.default_channels
        if word != words.NODEFAULTS
    )


def _all_channels(settings: Settings, spec: Spec, subdir: str) -> Iterator[Channel]:
    for word in spec.channels:
        if word != words.NODEFAULTS:
            yield Channel(redact(word), words.of_spec(settings, word))
    if not spec.has_nodefaults:
        yield from default_channels(settings)
    for match_spec in conda(spec, subdir):
        asked = words.of_match_spec(match_spec)
        if asked is not None:
            yield Channel(redact(asked), words.of_spec(settings, asked))


def _proxy(key: str, value: str) -> str:
    """Complete ``host:port``, which every program takes for an http proxy."""
    return value if key == "no" or "://" in value else f"http://{value}"


def _existing(settings: Settings, key: str, path: str | None) -> str | None:
    if path is not None and not os.path.isfile(path):
        hint = f"setting {key}"
        if path.startswith(CREDENTIAL):
            hint += f"; the service's unit must load it: LoadCredential={path[len(CREDENTIAL) :]}:/its/path"
        raise UsageError(f"{settings.source_text(key)}: there is no file {path}", hint=hint, key=key, file=path)
    return path
