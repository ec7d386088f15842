"""Installs exactly the pip artifacts of a lockfile: each from its URL, each by its hash, nothing else.

uv gets them as a ``pylock.toml`` (PEP 751; still a preview in uv 0.13, hence the version is pinned). A wheel with a
hash is linked from uv's cache where it is already there, which needs the cache on the prefix's file system.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)

from envmgr.backends.pip.locking import check_sdist
from envmgr.backends.pip.uv import Runner, Uv, prepared, translate_failure
from envmgr.backends.processes import run as run_process
from envmgr.errors import BuildFailed
from envmgr.events import Reporter, ignore
from envmgr.lockfile.digests import commit_of
from envmgr.model import LockedPackage
from envmgr.wire.pipe import Network, PipSettings


def install(
    packages: Sequence[LockedPackage],
    *,
    prefix: Path,
    settings: PipSettings,
    network: Network,
    uv_cache: Path,
    is_fresh: bool = False,
    environ: Mapping[str, str] | None = None,
    run: Runner = run_process,
    report: Reporter = ignore,
) -> None:
    """Install the pip packages among `packages` into `prefix`, its real path; conda's are ignored.

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
        text = "".join(_entry(package, uv) for package in wanted)
        (uv.scratch / "pylock.toml").write_text(f'lock-version = "1.0"\ncreated-by = "envmgr"\n{text}', "utf-8")
        finished = uv.pip(
            "install", "--preview-features", "pylock", "--no-deps", "--break-system-packages", "--no-sources",
            *uv.options.build_flags, "--requirements", "pylock.toml", phase="pip", total=len(wanted),
        )  # fmt: skip
        if finished.status != 0:
            raise translate_failure(finished, "the pip section cannot be installed")


def _entry(package: LockedPackage, uv: Uv) -> str:
    """Return a package's part of a pylock.toml; TOML's strings are JSON's."""
    lines = ["[[packages]]", f"name = {json.dumps(package.name)}"]
    url = uv.mirrored(package.url)
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
        kind = _kind(package)
        if kind == "archive":
            lines.append(f"archive = {value}")
        else:
            lines.append(f"version = {json.dumps(package.version)}")
            lines.append(f"wheels = [{value}]" if kind == "wheel" else f"sdist = {value}")
    return "".join(f"{line}\n" for line in lines)


def _kind(package: LockedPackage) -> str:
    """Tell a wheel and a source distribution by the file's name; anything else is an archive."""
    name = unquote(urlsplit(package.url).path).rsplit("/", 1)[-1]
    try:
        if name.endswith(".whl"):
            found = parse_wheel_filename(name)[0]
            return "wheel" if found == canonicalize_name(package.name) else "archive"
        return "sdist" if parse_sdist_filename(name)[0] == canonicalize_name(package.name) else "archive"
    except (InvalidWheelFilename, InvalidSdistFilename):
        return "archive"


def _inline(table: Mapping[str, str]) -> str:
    return "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items()) + " }"
