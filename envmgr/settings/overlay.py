"""The settings that the hosts of a cluster share, laid over those of one host.

The cluster's values win, tables entry by entry, as a later source's do. A value that this host cannot read, or that is
not cluster-wide, is left out and told of: the host's own stays in force, and the cluster shows which hosts those are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from envmgr.errors import UsageError
from envmgr.settings.schema import BY_KEY
from envmgr.settings.sources import CLUSTER, DEFAULT, Source, convert

if TYPE_CHECKING:
    from envmgr.settings.loading import Settings


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
        else:
            values[key] = found
            sources[key] = (source,)
    # Each was checked by its setting's kind, which mypy cannot follow through a table.
    return dataclasses.replace(settings, **values, sources=sources), tuple(problems)  # type: ignore[arg-type]
