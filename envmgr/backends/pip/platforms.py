"""The pip section's side of a declared machine class: which wheels fit its glibc, whatever the solving host has.

uv is told of the newest manylinux that it knows and the class has; what it chose from is then filtered exactly.

Source: PEP 600; ``uv pip compile --help`` (``--python-platform``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_MANYLINUX = re.compile(r"manylinux_(\d+)_(\d+)_")
_LEGACY = {"manylinux1_": (2, 5), "manylinux2010_": (2, 12), "manylinux2014_": (2, 17)}
_KNOWN_TO_UV = (28, *range(31, 41))
_ARCHITECTURES = {"linux-64": "x86_64", "linux-aarch64": "aarch64"}

Glibc = tuple[int, int]


def glibc(virtual_packages: Iterable[tuple[str, str]] | None) -> Glibc | None:
    """Return the least glibc that a class declares, such as ``(2, 28)``; ``None``: the host's own counts."""
    version = dict(virtual_packages or ()).get("__glibc", "")
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else None


def fitting(platforms: Sequence[str], newest: Glibc | None) -> list[str]:
    """Return those platform tags that a machine with this glibc has."""
    return [tag for tag in platforms if newest is None or _needed(tag) <= newest]


def _needed(tag: str) -> Glibc:
    found = _MANYLINUX.match(tag)
    if found:
        return int(found[1]), int(found[2])
    return next((version for prefix, version in _LEGACY.items() if tag.startswith(prefix)), (0, 0))


def flags(subdir: str, newest: Glibc | None) -> list[str]:
    """Return uv's arguments for a solve on another machine than this one; none where it has no word for it."""
    architecture = _ARCHITECTURES.get(subdir)
    if newest is None or architecture is None:
        return []
    minor = max((known for known in _KNOWN_TO_UV if (2, known) <= newest), default=None)
    word = "manylinux2014" if minor is None else f"manylinux_2_{minor}"
    return ["--python-platform", f"{architecture}-{word}"]
