"""Wheels that were built from source distributions when a lockfile was solved, as packages that can be installed.

The lockfile lists such a package with its sources, so that everybody can install it; who can have the wheel takes it
instead, and has the same bytes as the host that solved. There is no channel for it: only hosts have it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from envmgr.model import BuiltWheel, LockedPackage


def stand_ins(packages: Iterable[LockedPackage], built_wheels: Iterable[BuiltWheel]) -> tuple[LockedPackage, ...]:
    """Return, for each of the wheels, its package with the wheel's hash, and its URL as if it lay beside the sources.

    Nothing can be fetched from that URL.
    """
    by_name = {package.name: package for package in packages if package.manager == "pip"}
    return tuple(
        replace(by_name[it.name], url=f"{by_name[it.name].url.rpartition('/')[0]}/{it.file_name}", sha256=it.sha256)
        for it in built_wheels
    )
