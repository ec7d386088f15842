"""The settings that the hosts of a cluster share, laid over those of one host.

The cluster's values win, tables entry by entry, as a later source's do. Two kinds of exceptions are told of, and the
cluster shows which hosts those are:

* A value that this host cannot read, or that is not cluster-wide, is left out: the host's own stays in force.
* What the host's own files forbid its users (`_STRICTER`) stays forbidden, whatever the cluster allows. A default does
  not count. What the cluster itself declares is an administrator's wish, which ``allow_sdists`` does not bind, as ever;
  and a refusal by a setting is never published as a failure that all hosts would meet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envmgr.errors import UsageError
from envmgr.settings.schema import BY_KEY
from envmgr.settings.sources import CLUSTER, DEFAULT, Source, convert

if TYPE_CHECKING:
    from envmgr.settings.loading import Settings


def _both_allow(own: tuple[str, ...] | None, shared: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Return what both lists have; ``None`` has everything."""
    if own is None or shared is None:
        return shared if own is None else own
    return tuple(name for name in shared if name in own)


_STRICTER: Mapping[str, Callable[[Any, Any], object]] = {
    "allow_sdists": _both_allow,
    "allow_md5": lambda own, shared: own and shared,
}


def overlay(settings: Settings, shared: Mapping[str, object]) -> tuple[Settings, tuple[str, ...]]:
    """Return `settings` with the cluster's values, as in a settings file, and what is wrong with those left out."""
    values: dict[str, object] = {}
    sources = dict(settings.sources)
    problems = []
    for key, value in sorted(shared.items()):
        entry = BY_KEY.get(key)
        source = Source(CLUSTER, key)
        if entry is None:
            problems.append(f"{source}: this envmgr knows no such setting")
            continue
        if not entry.is_cluster_wide:
            problems.append(f"{source}: that is each host's own affair")
            continue
        try:
            found = convert(entry, value, source, Path.home())
        except UsageError as error:
            problems.append(error.message)
            continue
        below = getattr(settings, key)
        if entry.kind.is_table and isinstance(below, Mapping) and isinstance(found, Mapping):
            values[key] = {**below, **found}
            sources[key] = (*(it for it in sources.get(key, ()) if it != DEFAULT), source)
        elif key in _STRICTER and (own := [it for it in sources.get(key, ()) if it != DEFAULT and it.file != CLUSTER]):
            values[key] = _STRICTER[key](below, found)
            sources[key] = (*own, source)
            if values[key] != found:
                problems.append(f"{source}: {', '.join(map(str, own))} allows less on this host, and that holds")
        else:
            values[key] = found
            sources[key] = (source,)
    # Each was checked by its setting's kind, which mypy cannot follow through a table.
    return dataclasses.replace(settings, **values, sources=sources), tuple(problems)  # type: ignore[arg-type]
