"""conda-lock.yml, version 1: read, written, compared and reduced to a digest.

A lockfile says exactly which artifacts an environment is made of. `parse` reads one with our own reader: fast, with
limits, and every fault named with its line. `write` makes one through conda-lock's own models, so that conda-lock
reads and renders it; only that function imports ``conda_lock`` (0.7 s), from `envmgr.lockfile.writing`, when called.

What holds of every `Lockfile` and every text made here: no URL carries credentials; the same packages give the same
text, byte for byte, and the same digest; ``parse(write(…))`` gives the same packages and digest back.

Source of the format: conda-lock's JSON schema ``conda-lock-v1.schema.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from envmgr.lockfile.comparison import Comparison, compare, mismatch
from envmgr.lockfile.digests import canonical_text, digest
from envmgr.lockfile.reading import parse
from envmgr.lockfile.urls import strip_credentials
from envmgr.lockfile.wheels import stand_ins
from envmgr.model import BuiltWheel, LockedPackage

__all__ = [
    "Comparison",
    "canonical_text",
    "compare",
    "digest",
    "mismatch",
    "parse",
    "stand_ins",
    "strip_credentials",
    "write",
]


def write(
    packages: Sequence[LockedPackage],
    *,
    subdir: str,
    channels: Sequence[str],
    virtual_packages: Sequence[tuple[str, str]] = (),
    not_reproducible: Sequence[str] = (),
    built_wheels: Sequence[BuiltWheel] = (),
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Return the text of a conda-lock.yml for one subdir; see `envmgr.lockfile.writing`."""
    from envmgr.lockfile.writing import write as write_with_conda_lock  # noqa: PLC0415 - 0.7 s that only a writer pays

    return write_with_conda_lock(
        packages,
        subdir=subdir,
        channels=channels,
        virtual_packages=virtual_packages,
        not_reproducible=not_reproducible,
        built_wheels=built_wheels,
        metadata=metadata or {},
    )
