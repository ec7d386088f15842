"""Compares what was asked for with what a lockfile holds, as far as that needs no solver and no prefix.

Names are compared here; whether a conda package meets a MatchSpec's version and build is for rattler to say, so the
pairs to ask it about are returned. A pip requirement that the lockfile has no pip package for may be met by a conda
package, also of another name; that shows only in the installed prefix (`envmgr.backends.pip.unmet`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from envmgr.errors import LockfileMismatch
from envmgr.lockfile.digests import canonical_name
from envmgr.model import LockedPackage, Lockfile, Manager

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
    if pip:
        unmet += _unmet_pip(pip, by_name)
    return Comparison(tuple(unmet), tuple(to_match))


def mismatch(unmet: Sequence[str]) -> LockfileMismatch:
    """Return the error for a given lockfile that does not meet the spec; `unmet` are sentences."""
    return LockfileMismatch(
        f"the given lockfile does not satisfy the spec: {'; '.join(unmet)}",
        hint="make it anew: envmgr lock FILE -o OUT",
        unmet=list(unmet),
    )


def conda_name(match_spec: str) -> str:
    """Return the package's name that a normalised MatchSpec begins with, in lower case."""
    match = _CONDA_NAME.match(match_spec)
    return match.group(1).lower() if match else match_spec.lower()


def _unmet_pip(pip: Sequence[str], by_name: Mapping[tuple[Manager, str], LockedPackage]) -> Iterator[str]:
    # 15 ms that only a given lockfile and a pip section together pay; everything that can build imports this module.
    from packaging.requirements import InvalidRequirement, Requirement  # noqa: PLC0415
    from packaging.version import InvalidVersion, Version  # noqa: PLC0415

    for text in pip:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue  # a bare URL: its name is known only once it was fetched
        name = re.sub(r"[-_.]+", "-", requirement.name.lower())
        locked = by_name.get(("pip", name))
        if locked is None or requirement.marker is not None:
            continue
        try:
            is_allowed = requirement.specifier.contains(Version(locked.version), prereleases=True)
        except InvalidVersion:
            continue
        if not is_allowed:
            yield f"{text}: the lockfile has {locked.name} {locked.version} of pip"
