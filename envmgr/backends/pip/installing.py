"""Installs exactly the pip artifacts of a lockfile: each from its URL, each by its hash, nothing else.

uv gets them as a ``pylock.toml`` (PEP 751; still a preview in uv 0.13, hence the version is pinned). A wheel with a
hash is linked from uv's cache where it is already there, which needs the cache on the prefix's file system.

A wheel that lies in the package cache is given to uv as a file there. Measured with uv 0.13: it hashes such a file when
it first reads it, and knows it in its cache by index and file name, whatever its path; so a second install reads and
hashes nothing. The only trace of the file would be ``uv_cache.json`` in the distribution's metadata, with the time of
that file; it is taken out, so that an environment is the same wherever its wheels came from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote, urlsplit

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)

from envmgr import fsio
from envmgr.backends.pip.locking import check_sdist
from envmgr.backends.pip.uv import Runner, Uv, prepared, translate_failure
from envmgr.backends.processes import Finished
from envmgr.backends.processes import run as run_process
from envmgr.errors import BuildFailed
from envmgr.events import Event, Reporter, ignore
from envmgr.lockfile.digests import commit_of
from envmgr.model import LockedPackage
from envmgr.wire.pipe import Network, PipSettings

_UV_CACHE = "uv_cache.json"
_BLOCK_BYTES = 1 << 20


def install(
    packages: Sequence[LockedPackage],
    *,
    prefix: Path,
    settings: PipSettings,
    network: Network,
    uv_cache: Path,
    archives: Mapping[str, Path] = MappingProxyType({}),
    built_wheels: Sequence[LockedPackage] = (),
    is_fresh: bool = False,
    environ: Mapping[str, str] | None = None,
    run: Runner = run_process,
    report: Reporter = ignore,
) -> None:
    """Install the pip packages among `packages` into `prefix`, its real path; conda's are ignored.

    `archives` (package name -> file) are those of the `wheels` among them that are here already; one that turns out to
    be damaged is deleted, and fetched by uv like all others. Of `built_wheels` (`envmgr.lockfile.stand_ins`) those that
    are in `archives` are installed instead of the sources; of the others uv builds its own.

    With `is_fresh`, nothing that uv's cache has of these packages is believed: prefixes share files with it, so damage
    to one of them is damage to the cache. `environ` as for `lock`. Raises `Corrupt` for a wrong hash, `PolicyRefused`
    for sources that may not be built, `ChannelError` and its kinds, `BuildFailed`.
    """
    wanted = [package for package in packages if package.manager == "pip"]
    if not wanted:
        return
    for package in wanted:
        if not urlsplit(package.url).path.endswith(".whl"):
            check_sdist(package.name, settings)  # a lockfile that came from elsewhere allows nothing
    with prepared(
        prefix, settings=settings, network=network, uv_cache=uv_cache, environ=environ or {}, run=run, report=report
    ) as uv:
        if is_fresh:
            uv.forget([package.name for package in wanted])
        chosen = _chosen(wanted, built_wheels, archives)
        finished = _install(chosen, uv, archives)
        if finished.status != 0 and (whole := whole_of(chosen, archives, report)) != archives:
            archives = whole
            finished = _install(_chosen(wanted, built_wheels, archives), uv, archives)
        if finished.status != 0:
            raise translate_failure(finished, "the pip section cannot be installed")
    _forget_files(prefix, archives)


def wheels(packages: Sequence[LockedPackage]) -> tuple[LockedPackage, ...]:
    """Return the packages that `install` takes as files: wheels with a hash that came over a network."""
    return tuple(
        package
        for package in packages
        if package.manager == "pip"
        and package.sha256 is not None
        and package.url.startswith(("https://", "http://"))
        and urlsplit(package.url).path.endswith(".whl")
        and kind_of(package) == "wheel"
    )


def _chosen(
    wanted: Sequence[LockedPackage], built_wheels: Sequence[LockedPackage], archives: Mapping[str, Path]
) -> list[LockedPackage]:
    """Return what is installed: of a package whose built wheel is here that, and not its sources."""
    built = {wheel.name: wheel for wheel in built_wheels if wheel.name in archives and kind_of(wheel) == "wheel"}
    return [built.get(package.name, package) for package in wanted]


def _install(wanted: Sequence[LockedPackage], uv: Uv, archives: Mapping[str, Path]) -> Finished:
    text = "".join(_entry(package, uv, archives.get(package.name)) for package in wanted)
    (uv.scratch / "pylock.toml").write_text(f'lock-version = "1.0"\ncreated-by = "envmgr"\n{text}', "utf-8")
    return uv.pip(
        "install", "--preview-features", "pylock", "--no-deps", "--break-system-packages", "--no-sources",
        *uv.options.build_flags, "--requirements", "pylock.toml", phase="pip", total=len(wanted),
    )  # fmt: skip


def whole_of(wanted: Sequence[LockedPackage], archives: Mapping[str, Path], report: Reporter) -> dict[str, Path]:
    """Return those of `archives` whose bytes are what they must be, and delete the others."""
    whole = {}
    for package in wanted:
        path = archives.get(package.name)
        if path is None:
            continue
        with path.open("rb") as file:
            found = hashlib.sha256()
            while block := file.read(_BLOCK_BYTES):
                found.update(block)
        if found.hexdigest() == str(package.sha256).lower():
            whole[package.name] = path
        else:
            report(Event("warning", "pip", f"the cached archive of {package.name} was damaged; fetching it again"))
            path.unlink()
    return whole


def _forget_files(prefix: Path, archives: Mapping[str, Path]) -> None:
    """Take out of the metadata that these distributions were installed from files of this host."""
    names = {canonicalize_name(name) for name in archives}
    for path in prefix.glob(f"lib/python*/site-packages/*.dist-info/{_UV_CACHE}") if names else ():
        if canonicalize_name(path.parent.name.partition("-")[0]) not in names:
            continue
        record = path.parent / "RECORD"
        lines = record.read_text("utf-8").splitlines(keepends=True)
        kept = "".join(line for line in lines if not line.startswith(f"{path.parent.name}/{_UV_CACHE},"))
        temporary = record.with_name(f"{fsio.TEMPORARY}RECORD")
        temporary.write_text(kept, "utf-8", newline="")
        temporary.chmod(record.stat().st_mode & 0o777)
        temporary.replace(record)
        path.unlink()


def _entry(package: LockedPackage, uv: Uv, archive: Path | None) -> str:
    """Return a package's part of a pylock.toml; TOML's strings are JSON's."""
    lines = ["[[packages]]", f"name = {json.dumps(package.name)}"]
    url = uv.mirrored(package.url)
    if archive is not None:
        lines.append(f"index = {json.dumps(package.url.rpartition('/')[0])}")
        url = named(archive, package, uv.scratch).as_uri()
    if package.sha256 is None:
        kind, _, address = url.partition("+")
        address, _, fragment = address.partition("#")
        commit = commit_of(package.url)
        if commit is None:
            raise BuildFailed(f"{package.name} is locked neither by a hash nor by a commit: {package.url}")
        vcs = {"type": kind, "url": address.rpartition("@")[0], "commit-id": commit.partition("#")[0]}
        if fragment.startswith("subdirectory="):
            vcs["subdirectory"] = fragment.partition("=")[2]
        lines.append("vcs = " + _inline(vcs))
    else:
        value = f"{{ url = {json.dumps(url)}, hashes = {{ sha256 = {json.dumps(package.sha256)} }} }}"
        kind = kind_of(package)
        if kind == "archive":
            lines.append(f"archive = {value}")
        else:
            lines.append(f"version = {json.dumps(package.version)}")
            lines.append(f"wheels = [{value}]" if kind == "wheel" else f"sdist = {value}")
    return "".join(f"{line}\n" for line in lines)


def named(archive: Path, package: LockedPackage, scratch: Path) -> Path:
    """Return a path by which an archive has the name that tells what is in it."""
    path = scratch / "wheels" / archive.name / file_name(package)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_symlink():
        path.symlink_to(archive)
    return path


def file_name(package: LockedPackage) -> str:
    return unquote(urlsplit(package.url).path).rsplit("/", 1)[-1]


def kind_of(package: LockedPackage) -> str:
    """Tell a wheel and a source distribution by the file's name; anything else is an archive."""
    name = file_name(package)
    try:
        if name.endswith(".whl"):
            found = parse_wheel_filename(name)[0]
            return "wheel" if found == canonicalize_name(package.name) else "archive"
        return "sdist" if parse_sdist_filename(name)[0] == canonicalize_name(package.name) else "archive"
    except (InvalidWheelFilename, InvalidSdistFilename):
        return "archive"


def _inline(table: Mapping[str, str]) -> str:
    return "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items()) + " }"
