"""Show every setting with its value and where it stands, without passwords."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envmgr.settings.environment import variables_of
from envmgr.settings.redact import redact
from envmgr.settings.schema import ENTRIES

if TYPE_CHECKING:
    from envmgr.settings.loading import Settings


@dataclass(frozen=True, slots=True)
class Row:
    """One setting; `value` and `sources` are ``None`` and empty where no store was asked about.

    Values are JSON values with credentials hidden; ``"all"`` and ``"never"`` stand for themselves.
    """

    key: str
    expected: str
    personal_default: object
    service_default: object
    is_cluster_wide: bool
    doc: str
    variable: str
    other_variables: tuple[str, ...]
    value: object
    sources: tuple[Mapping[str, object], ...]
    source: str

    def to_json(self) -> Mapping[str, object]:
        return {
            "key": self.key,
            "value": self.value,
            "source": self.source,
            "sources": list(self.sources),
            "expected": self.expected,
            "personal_default": self.personal_default,
            "service_default": self.service_default,
            "is_cluster_wide": self.is_cluster_wide,
            "doc": self.doc,
            "variable": self.variable,
            "other_variables": list(self.other_variables),
        }


def table(settings: Settings | None = None) -> tuple[Row, ...]:
    """Return all settings in their order: the documentation, and with `settings` the values in force, too."""
    return tuple(
        Row(
            key=entry.key,
            expected=entry.kind.name,
            personal_default=shown(entry.key, entry.personal),
            service_default=shown(entry.key, entry.service),
            is_cluster_wide=entry.is_cluster_wide,
            doc=entry.doc,
            variable=entry.variable,
            other_variables=variables_of(entry.key),
            value=None if settings is None else shown(entry.key, getattr(settings, entry.key)),
            sources=() if settings is None else tuple(source.to_json() for source in settings.sources[entry.key]),
            source="" if settings is None else settings.source_text(entry.key),
        )
        for entry in ENTRIES
    )


def shown(key: str, value: object) -> object:
    """Return a value as JSON, without credentials."""
    if value is None:
        return {"channel_variables": "all", "allow_sdists": "all", "allow_link_scripts": "all"}.get(
            key, "never" if key.endswith("_max_age_s") else None
        )
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, tuple):
        return [redact(str(item)) for item in value]
    if isinstance(value, Mapping):
        return {redact(name): shown(key, item) for name, item in value.items()}
    return value


def markdown() -> str:
    """Return the README's table of settings."""
    lines = ["| setting | default | of a service store | meaning |", "|---|---|---|---|"]
    for row in table():
        service = "" if row.service_default == row.personal_default else f"`{_literal(row.service_default)}`"
        doc = f"{row.doc} *Cluster-wide.*" if row.is_cluster_wide else row.doc
        default = "" if row.personal_default in (None, "") else f"`{_literal(row.personal_default)}`"
        lines.append(f"| `{row.key}` | {default} | {service} | {doc.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def commented_file() -> str:
    """Return a settings file for a service's host: every setting as a comment, with its default there."""
    lines = []
    for row in table():
        words = f"{row.doc} Expected: {row.expected}." + (" The same on every host." if row.is_cluster_wide else "")
        lines += textwrap.wrap(words.replace("`", ""), 100, initial_indent="# ", subsequent_indent="# ")
        value = "" if row.service_default is None else row.service_default
        lines += [f"#{row.key} = {_literal(value)}", ""]
    return "\n".join(lines)


def _literal(value: object) -> str:
    """Return a value as TOML would have it; numbers of seconds and bytes in their largest whole unit stay numbers."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_literal(item)}" for key, item in value.items()) + "}"
    return (
        f"{value:g}"
        if isinstance(value, float) and value < 1e6
        else str(int(value))
        if isinstance(value, float)
        else str(value)
    )
