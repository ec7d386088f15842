"""From requirements to exact packages: repodata through rattler's gateway, then its solver.

* Every channel of the request is given as a named group of its URLs, also where it has only one. So
  ``channel::package`` finds it by the name that the spec uses, whatever URL that stands for, and ``defaults`` is one
  tier of several URLs.
* Repodata is kept below the package cache; its freshness is asked for at each solve. Some servers answer "not modified"
  to the index of shards in a way that rattler does not take; then it is fetched without the cache. Offline, what is
  kept is believed whatever its age.
* URLs leave here without credentials.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rattler import (
    BuildString,
    ChannelPriority,
    Gateway,
    MatchSpec,
    PackageRecord,
    RepoDataRecord,
    SourceConfig,
    Subdir,
)
from rattler import solve as rattler_solve
from rattler.exceptions import GatewayError
from rattler.repo_data import MultiSource

from envmgr.backends.rattler import network as networking
from envmgr.backends.rattler import virtual_packages as virtual
from envmgr.backends.rattler.errors import translating
from envmgr.errors import InvalidSpec
from envmgr.lockfile import strip_credentials
from envmgr.model import LockedPackage, VirtualPackage

if TYPE_CHECKING:
    from rattler.networking.fetch_repo_data import CacheAction

    from envmgr.wire.pipe import BuildRequest, Channel, Network

_PRIORITIES = {
    "strict": ChannelPriority.Strict,
    "flexible": ChannelPriority.Flexible,
    "disabled": ChannelPriority.Disabled,
}
_DEPENDENCY = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.\-]*)\s*(.*)", re.DOTALL)
_CHANNEL = re.compile(r"^[^\s\[]*::")
_NOT_MODIFIED = "status code (304"


@dataclass(frozen=True, slots=True)
class Solution:
    """Exact packages, what they require of a machine, and their sizes (URL -> bytes) as far as they are known."""

    packages: tuple[LockedPackage, ...]
    virtual_packages: tuple[tuple[str, str], ...]
    sizes: dict[str, int]


async def solve(request: BuildRequest, packages: Iterable[VirtualPackage]) -> Solution:
    """Find the packages of the request's conda part on a machine with the virtual `packages`.

    Raises `Unsatisfiable` with the solver's explanation, `ChannelError`, `NetworkError`, `Offline`, `InvalidSpec`.
    """
    specs = parse(request.conda)
    doing = f"cannot solve for {request.subdir}"
    action: CacheAction = "force-cache-only" if request.network.is_offline else "cache-or-fetch"
    with translating(doing):
        try:
            records = await _solve(request, specs, packages, action, doing)
        except GatewayError as error:
            if _NOT_MODIFIED not in str(error):
                raise
            records = await _solve(request, specs, packages, "no-cache", doing)
    sizes = {strip_credentials(record.url): record.size for record in records if record.size is not None}
    return solution(map(locked_package, records), request.conda, sizes)


def solution(packages: Iterable[LockedPackage], requested: Iterable[str], sizes: dict[str, int]) -> Solution:
    """Return the solution that has these packages; what it requires of a machine stands in them and in `requested`."""
    locked = tuple(sorted(packages, key=lambda package: package.name))
    required = {pair for package in locked for pair in package.dependencies if pair[0].startswith("__")}
    required |= {dependency(text) for text in requested if text.lstrip().startswith("__")}
    return Solution(locked, tuple(sorted(required)), sizes)


async def _solve(
    request: BuildRequest,
    specs: list[MatchSpec],
    packages: Iterable[VirtualPackage],
    action: CacheAction,
    doing: str,
) -> list[RepoDataRecord]:
    if not specs:
        return []
    newest = None if request.exclude_newer is None else _time(request.exclude_newer)
    work = rattler_solve(
        sources=[MultiSource(strip_credentials(channel.name), _plain(channel)) for channel in request.channels],
        specs=specs,
        gateway=_gateway(request.network, Path(request.package_cache), action),
        platforms=[Subdir(request.subdir), Subdir("noarch")],
        virtual_packages=virtual.generic(packages),
        channel_priority=_PRIORITIES[request.channel_priority],
        exclude_newer=newest,
        channel_relations="disabled",  # exactly the channels of the spec, in its order
    )
    return await networking.unless_stalled(work, request.network.timeout_s, doing)


async def probe(channels: Iterable[Channel], network: Network, cache: Path, subdir: str) -> None:
    """Fetch the index of each channel; raise what `solve` would raise."""
    for channel in channels:
        doing = f"cannot read channel {strip_credentials(channel.name)}"
        with translating(doing):
            gateway = _gateway(network, cache, "no-cache")
            names = gateway.names(_plain(channel), [Subdir(subdir), Subdir("noarch")])
            await networking.unless_stalled(names, network.timeout_s, doing)


def _plain(channel: Channel) -> list[str]:
    """Return the channel's URLs as rattler may know them; `networking.arm` has the credentials."""
    return [strip_credentials(url) for url in channel.urls]


def _gateway(network: Network, cache: Path, action: CacheAction) -> Gateway:
    client = networking.client(network, mirrors=True, max_retries=network.max_retries)
    return Gateway(cache_dir=cache / "repodata", default_config=SourceConfig(cache_action=action), client=client)


def parse(texts: Iterable[str]) -> list[MatchSpec]:
    """Parse MatchSpecs as conda does (leniently); `InvalidSpec` names the one that cannot be read."""
    specs = []
    for text in texts:
        with translating(f"cannot read the requirement {text!r}"):
            specs.append(MatchSpec(text))
    return specs


def unmet(pairs: Iterable[tuple[str, LockedPackage]]) -> list[str]:
    """Say which of these pairs of a MatchSpec and a locked package do not match; channels do not count."""
    found = []
    for text, package in pairs:
        (spec,) = parse([_CHANNEL.sub("", text)])
        record = PackageRecord(
            name=package.name,
            version=package.version,
            build=BuildString(package.build or "0"),
            build_number=build_number(package),
            subdir=package.subdir or "noarch",
            arch=None,
            platform=None,
            noarch=None,
            sha256=bytes.fromhex(package.sha256) if package.sha256 else None,
            md5=bytes.fromhex(package.md5) if package.md5 else None,
        )
        if not spec.matches(record):
            found.append(f"{text}: the lockfile has {package.name} {package.version} {package.build or ''}".rstrip())
    return found


def build_number(package: LockedPackage) -> int:
    """Return the build number, which by convention is what a build string ends with."""
    number = (package.build or "").rpartition("_")[2]
    return int(number) if number.isdigit() else 0


def _time(text: str) -> dt.datetime:
    try:
        time = dt.datetime.fromisoformat(text.replace("Z", "+00:00").replace("z", "+00:00"))
    except ValueError as error:
        raise InvalidSpec(f"{text!r} is not a time: {error}", hint="such as 2026-01-31T00:00:00Z") from error
    return time if time.tzinfo else time.replace(tzinfo=dt.timezone.utc)


def locked_package(record: RepoDataRecord) -> LockedPackage:
    """Return what a lockfile says of `record`."""
    return LockedPackage(
        manager="conda",
        name=record.name.normalized,
        version=str(record.version),
        url=strip_credentials(str(record.url)),
        sha256=record.sha256.hex() if record.sha256 else None,
        md5=record.md5.hex() if record.md5 else None,
        build=str(record.build) or None,
        subdir=record.subdir,
        dependencies=dependencies(record.depends),
    )


def dependency(text: str) -> tuple[str, str]:
    """Split a requirement into its name and the rest."""
    match = _DEPENDENCY.fullmatch(text.strip())
    return (match.group(1).lower(), match.group(2)) if match else (text.strip(), "")


def dependencies(texts: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Return one requirement for each name, as conda-lock's format has it: several versions become one, with commas."""
    found: dict[str, str] = {}
    for name, rest in map(dependency, texts):
        before = found.get(name)
        found[name] = rest if not before else before if not rest else _both(before, rest)
    return tuple(sorted(found.items()))


def _both(one: str, other: str) -> str:
    if one == other:
        return one
    (version, _, build), (other_version, _, other_build) = one.partition(" "), other.partition(" ")
    return f"{version},{other_version} {build or other_build}".strip()
