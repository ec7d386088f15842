"""Links unpacked packages into a prefix. Of rattler's install, only the linking is left.

rattler looks for a package in a directory ``<name>-<version>-<build>`` of its cache, and takes one exclusive lock on
that cache for the whole install; but only on the first of several layers. So it gets two layers of symbolic links with
these names to the entries of `envmgr.backends.archives`: the first is the build's own and mostly empty, the second,
``<package_cache>/named``, belongs to all builds. rattler follows the links, hard-links what is behind them, fetches
nothing, and its lock has no one to keep waiting. The paths of these layers, which rattler writes into its records, are
then replaced by the entries' own.

A link that all builds share is made once and never changed: a build that found it right may rely on it. Where it leads
to another package of the same name, version and build, the build has a link of its own, which comes first. Collection
deletes those whose package no environment needs, with rattler's lock file, while no build is at work. Shared they
are because a link and rattler's lock file beside it are two new inodes for each package, which ext4 takes half a
millisecond each to find where many were deleted a moment ago.

What rattler knows of a package comes from the package's own ``info/index.json``, its dependencies from the lockfile (a
channel may have corrected them): so records are the same whether this host solved or got the lockfile.

If rattler ever found an entry not to its taste it would fetch the package by itself, unverified. It gets a client that
reaches nobody, so this fails instead.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from rattler import Client, Config, PackageCache, PackageRecord, RepoDataRecord
from rattler import install as rattler_install
from rattler.package_cache import PackageCacheLayer, ValidationMode

from envmgr.backends.processes import Finished
from envmgr.backends.rattler.errors import translating
from envmgr.backends.rattler.solve import build_number, parse
from envmgr.errors import BuildFailed, Corrupt
from envmgr.events import Event, Reporter
from envmgr.model import LockedPackage

_UNREACHABLE = '[proxy-config]\nhttp = "http://127.0.0.1:9"\nhttps = "http://127.0.0.1:9"'
_LINKING = "allow-symbolic-links = true\nallow-ref-links = false"
"""Files are hard links to the cache, or copies. A package's own symbolic links stay what they are: a copy in the place
of one would be of the unpacked file, in which the prefix is not set."""
_CLOBBERS = "__clobbers__"
_ENTRIES = "e"
"""A link to the unpacked packages: the links beside it begin with it, and so are short enough for an inode."""
_REPORT_EVERY = 20
_SCRIPTS_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Linked:
    """What linking found: warnings for the user, and link scripts as (package, script's path in the prefix)."""

    warnings: tuple[str, ...]
    scripts: tuple[tuple[LockedPackage, str], ...]


async def link(
    packages: Sequence[LockedPackage],
    unpacked: Mapping[str, Path],
    prefix: Path,
    *,
    scratch: Path,
    shared: Path,
    requested: Sequence[str],
    report: Reporter,
) -> Linked:
    """Make `prefix` of `packages`; `unpacked` says where each lies, all in one directory.

    `scratch` is made, and of no use any more; `shared` is the directory of links that all builds have in common.
    Blocks no other build. Runs no script. After an error the prefix is in pieces, and rattler's threads may still be
    writing to it until this process ends.
    """
    records = [_record(package, unpacked[package.name]) for package in packages]
    os.mkdir(scratch)
    places = {_cache_name(record): unpacked[package.name] for record, package in zip(records, packages, strict=True)}
    own = _name(places, shared, scratch)
    layers = [PackageCacheLayer(path).with_validation_mode(ValidationMode.skip()) for path in (scratch, shared)]
    progress = _Progress(report, len(records))
    with translating(f"cannot link into {prefix}"):
        await rattler_install(
            records,
            target_prefix=prefix,
            installed_packages=[],
            execute_link_scripts=False,
            show_progress=False,
            client=Client.from_config(Config.from_toml(_UNREACHABLE), max_retries=0),
            # The wrapper passes these on as they are, and its Rust half wants its own kind.
            requested_specs=[spec._match_spec for spec in parse(requested)],  # noqa: SLF001
            reporter=progress,  # type: ignore[arg-type]
            config=Config.from_toml(_LINKING),
            package_cache=PackageCache.from_layers(layers),
        )
    if progress.fetched:
        raise Corrupt(
            f"rattler did not take the unpacked package of {', '.join(progress.fetched)}",
            hint="`envmgr gc` and another try unpack it anew",
        )
    _settle_records(prefix, {name: ((scratch if name in own else shared) / name, places[name]) for name in places})
    return Linked(_clobbered(prefix), tuple(scripts(packages, unpacked)))


def _record(package: LockedPackage, directory: Path) -> RepoDataRecord:
    index = directory / "info/index.json"
    doing = f"the package {package.name} {package.version} has no usable info/index.json"
    with translating(doing):
        record = PackageRecord.from_index_json(index, sha256=package.sha256, md5=package.md5)
    if (record.name.normalized, str(record.version)) != (package.name.lower(), package.version):
        raise Corrupt(
            f"the archive {package.url} holds {record.name.normalized} {record.version}, "
            f"not {package.name} {package.version}",
            package=package.name,
        )
    if package.subdir:
        record.subdir = package.subdir
    if package.dependencies:
        record.depends = [f"{name} {rest}".strip() for name, rest in package.dependencies]
    channel, file_name = _split(package.url)
    return RepoDataRecord(record, file_name=file_name, url=package.url, channel=channel)


def _name(places: Mapping[str, Path], shared: Path, scratch: Path) -> set[str]:
    """Let each name of `places` be a link to its directory in `shared`, or in `scratch`; return those in `scratch`."""
    shared.mkdir(exist_ok=True)
    directory = next((place.parent for place in places.values()), scratch)
    for layer in (scratch, shared):
        with contextlib.suppress(FileExistsError):
            os.symlink(directory, layer / _ENTRIES)
    own = set()
    for name, place in places.items():
        target = f"{_ENTRIES}/{place.name}"
        try:
            found = os.readlink(shared / name)
        except OSError:
            with contextlib.suppress(FileExistsError):  # another build is as fast, maybe with another package
                os.symlink(target, shared / name)
            found = os.readlink(shared / name)
        if found != target:
            os.symlink(target, scratch / name)
            own.add(name)
    return own


def _split(url: str) -> tuple[str, str]:
    """Return a package's channel (with a slash at its end) and file name."""
    base, _, file_name = url.partition("#")[0].rpartition("/")
    return base.rpartition("/")[0] + "/", unquote(urlsplit(file_name).path)


def _cache_name(record: RepoDataRecord) -> str:
    return f"{record.name.normalized}-{record.version}-{record.build}"


class _Progress:
    """rattler's reporter: counts linked packages, and notes what rattler would fetch."""

    def __init__(self, report: Reporter, count: int) -> None:
        self._report = report
        self._count = count
        self._linked = 0
        self._names: list[str] = []
        self.fetched: list[str] = []

    def on_populate_cache_start(self, _operation: int, package_name: str) -> int:
        self._names.append(package_name)
        return len(self._names) - 1

    def on_download_start(self, cache_entry: int) -> int:
        self.fetched.append(self._names[cache_entry] if cache_entry < len(self._names) else "a package")
        return 0

    def on_link_complete(self, _index: int) -> None:
        self._linked += 1
        if self._linked % _REPORT_EVERY == 0 or self._linked == self._count:
            self._report(Event("progress", "link", "", self._linked, self._count, "packages"))


def _settle_records(prefix: Path, places: Mapping[str, tuple[Path, Path]]) -> None:
    """Make conda-meta readable to everyone, and let it name the entries of the package cache, not links to them.

    `places`: package -> where rattler found it, and where that leads.
    """
    meta = prefix / "conda-meta"
    for name in os.listdir(meta):
        if not name.endswith(".json"):
            continue
        path = os.path.join(meta, name)
        with open(path, "r+b") as file:
            if change := places.get(name.removesuffix(".json")):
                found, real = map(_quoted, change)
                data = file.read().replace(found, real)
                file.seek(0)
                file.write(data)
                file.truncate()
            os.fchmod(file.fileno(), 0o644)


def _quoted(path: Path) -> bytes:
    return json.dumps(str(path)).encode()


def _clobbered(prefix: Path) -> tuple[str, ...]:
    """Say which files several packages bring; rattler keeps one and puts the others aside."""
    aside = prefix / _CLOBBERS
    if not aside.is_dir():
        return ()
    losers: dict[str, list[str]] = {}
    for path in sorted(path for path in aside.rglob("*") if not path.is_dir()):
        package, *rest = path.relative_to(aside).parts
        losers.setdefault("/".join(rest), []).append(package)
    return tuple(f"{path} is in several packages; that of {', '.join(names)} lost" for path, names in losers.items())


# ------------------------------------------------------------------------------------------------------ link scripts


def scripts(packages: Sequence[LockedPackage], unpacked: Mapping[str, Path]) -> list[tuple[LockedPackage, str]]:
    """Return the link scripts of the unpacked packages, as (package, script's path in the prefix)."""
    return [
        (package, where)
        for package in packages
        for where in (f"bin/.{package.name}-pre-link.sh", f"bin/.{package.name}-post-link.sh")
        if os.path.lexists(unpacked[package.name] / where)
    ]


def run_scripts(
    scripts: Sequence[tuple[LockedPackage, str]],
    prefix: Path,
    *,
    allowed: Sequence[str] | None,
    run: Callable[..., Finished],
    environ: Mapping[str, str],
    report: Reporter,
) -> tuple[str, ...]:
    """Run the post-link scripts of the `allowed` packages (``None``: of all); return the packages that were skipped.

    As conda does: with ``PREFIX``, ``PKG_NAME``, ``PKG_VERSION``, ``PKG_BUILDNUM``, the prefix's programs first on the
    path, and what a script leaves in ``.messages.txt`` is shown. Pre-link scripts, which conda has given up, never run.
    A script that fails is `BuildFailed`.
    """
    skipped = []
    for package, where in scripts:
        if where.endswith("-pre-link.sh") or (allowed is not None and package.name not in allowed):
            skipped.append(package.name)
            continue
        given = {
            **environ,
            "PATH": f"{prefix}/bin:{_SCRIPTS_PATH}",
            "PREFIX": str(prefix),
            "PKG_NAME": package.name,
            "PKG_VERSION": package.version,
            "PKG_BUILDNUM": str(build_number(package)),
        }
        report(Event("log", "link", f"running {where}"))
        finished = run(
            ["/bin/sh", prefix / where],
            environ=given,
            on_line=lambda line: report(Event("log", "link", line)),
            cwd=prefix,
        )
        if finished.status != 0:
            raise BuildFailed(
                f"the post-link script of {package.name} failed with status {finished.status}: "
                f"{' / '.join(finished.tail[-5:])}",
                hint="the setting allow_link_scripts says whose scripts are run",
                package=package.name,
            )
        messages = prefix / ".messages.txt"
        if messages.is_file():
            report(Event("warning", "link", f"{package.name} says: {messages.read_text('utf-8', 'replace').strip()}"))
            messages.unlink()
    return tuple(dict.fromkeys(skipped))
