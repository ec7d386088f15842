"""Compares what was asked for with what a lockfile holds, as far as that needs no solver and no prefix.

Names are compared here; whether a conda package meets a MatchSpec's version and build is for rattler to say, so the
pairs to ask it about are returned. A pip requirement that the lockfile has no pip package for may be met by a conda
package, also of another name; that shows only in the installed prefix (`envmgr.backends.pip.unmet`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from envmgr.lockfile.digests import canonical_name
from envmgr.model import LockedPackage, Lockfile

_CONDA_NAME = re.compile(r"(?:.*::)?\s*([^\s=<>!~\[;]+)")


@dataclass(frozen=True, slots=True)
class Comparison:
    """`unmet` are sentences, one for each requirement that the lockfile cannot meet; `to_match` is left to rattler."""

    unmet: tuple[str, ...]
    to_match: tuple[tuple[str, LockedPackage], ...]


def compare(conda: Sequence[str], pip: Sequence[str], lockfile: Lockfile) -> Comparison:
    """Compare MatchSpecs and PEP 508 requirements, already chosen for the lockfile's subdir, with its packages."""
    by_name = {(package.manager, canonical_name(package)): package for package in lockfile.packages}
    unmet: list[str] = []
    to_match: list[tuple[str, LockedPackage]] = []
    for match_spec in conda:
        name = conda_name(match_spec)
        if name.startswith("__"):
            continue  # a virtual package: the host's to have, not the lockfile's
        package = by_name.get(("conda", name))
        if package is None:
            unmet.append(f"{match_spec}: the lockfile has no conda package {name}")
        else:
            to_match.append((match_spec, package))
    for text in pip:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue  # a bare URL: its name is known only once it was fetched
        name = re.sub(r"[-_.]+", "-", requirement.name.lower())
        locked = by_name.get(("pip", name))
        if locked is not None and requirement.marker is None and not _allows(requirement, locked.version):
            unmet.append(f"{text}: the lockfile has {locked.name} {locked.version} of pip")
    return Comparison(tuple(unmet), tuple(to_match))


def conda_name(match_spec: str) -> str:
    """Return the package's name that a normalised MatchSpec begins with, in lower case."""
    match = _CONDA_NAME.match(match_spec)
    return match.group(1).lower() if match else match_spec.lower()


def _allows(requirement: Requirement, version: str) -> bool:
    try:
        return requirement.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:
        return True
