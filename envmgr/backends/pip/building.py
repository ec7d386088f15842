"""Builds the wheels of source distributions once, so that other hosts can have them by their hash.

uv builds them as it does when it installs the sources: the prefix's interpreter, the same indexes, options, variables
and isolation. What fails to build here is left to the installation, which says why.

A wheel is the same thing on other hosts, under other paths, only if it is for no particular platform and names the
prefix that it was built for in none of its files (`Wheel.is_portable`): a compiled one may need this machine's C
library, and has the prefix's path in it. Those are not locked, and each host builds its own. Not seen: a path in a
compressed member of the wheel, such as an archive.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from envmgr.backends.pip.installing import file_name, kind_of, named, whole_of
from envmgr.backends.pip.uv import Runner, explanation, prepared
from envmgr.events import Event, Reporter
from envmgr.model import LockedPackage
from envmgr.wire.pipe import Network, PipSettings


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel that was built from the sources of the pip package `name`."""

    name: str
    path: Path
    is_portable: bool


def sources(packages: Sequence[LockedPackage]) -> tuple[LockedPackage, ...]:
    """Return the packages that `build` can build: source distributions with a hash that came over a network."""
    return tuple(
        package
        for package in packages
        if package.manager == "pip"
        and package.sha256 is not None
        and package.url.startswith(("https://", "http://"))
        and not urlsplit(package.url).path.endswith(".whl")
        and kind_of(package) == "sdist"
    )


def build(
    packages: Sequence[LockedPackage],
    archives: Mapping[str, Path],
    directory: Path,
    *,
    prefix: Path,
    settings: PipSettings,
    network: Network,
    uv_cache: Path,
    environ: Mapping[str, str],
    run: Runner,
    report: Reporter,
) -> tuple[Wheel, ...]:
    """Build the wheels of those `packages` whose sources are in `archives` (name -> file), once these were hashed.

    They lie below `directory`, which is made. What cannot be built is left out.
    """
    archives = whole_of(packages, archives, report)  # uv has nothing to compare the file with
    wanted = [package for package in packages if package.name in archives]
    found = []
    with prepared(
        prefix, settings=settings, network=network, uv_cache=uv_cache, environ=environ, run=run, report=report
    ) as uv:
        for package in wanted:
            out = directory / str(package.sha256)
            out.mkdir(parents=True)
            finished = uv.build_wheel(named(archives[package.name], package, uv.scratch), out)
            made = list(out.glob("*.whl"))
            if finished.status == 0 and len(made) == 1 and _is_of(made[0], package):
                found.append(Wheel(package.name, made[0], _is_portable(made[0], prefix)))
            else:
                why = explanation(finished) if finished.status else f"it made {[path.name for path in made]}"
                report(Event("log", "pip-lock", f"no wheel of {file_name(package)} is kept: {why}"))
    return tuple(found)


def _is_of(wheel: Path, package: LockedPackage) -> bool:
    try:
        return parse_wheel_filename(wheel.name)[0] == canonicalize_name(package.name)
    except InvalidWheelFilename:
        return False


def _is_portable(wheel: Path, prefix: Path) -> bool:
    if any(tag.platform != "any" for tag in parse_wheel_filename(wheel.name)[3]):
        return False
    path = os.fsencode(prefix)
    try:
        with zipfile.ZipFile(wheel) as archive:
            return not any(path in archive.read(member) for member in archive.infolist())
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError):
        return False
