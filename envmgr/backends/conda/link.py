"""Links unpacked packages into a prefix by the site's conda: ``create`` from an explicit list, offline.

conda gets a package cache of the build's own, made of hard links to the entries of `envmgr.backends.archives`, each
with the ``info/repodata_record.json`` that conda looks for. So it downloads and unpacks nothing, what it links was
verified before, files are shared with the cache as they are when rattler links, and no other conda is in its way.

conda runs no link script: in its cache those are empty, and the real ones are put into the prefix afterwards. Whose are
run, and how, is decided where it is for rattler. Files that conda writes the prefix into are copies that it may write.

Only conda and mamba 1, which is conda's code: where mamba 2 and micromamba look for a package in their cache differs
from version to version.

Source: conda's ``misc.explicit`` and ``core/package_cache_data.py``; constructor and conda-store prepare conda's cache
in the same way.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from envmgr.backends.rattler.link import Linked, scripts
from envmgr.errors import Corrupt
from envmgr.events import Event, Reporter
from envmgr.lockfile.comparison import conda_name
from envmgr.model import LockedPackage

if TYPE_CHECKING:
    from envmgr.backends.conda.command import Caller

_UNLINKABLE = frozenset({errno.EXDEV, errno.EMLINK, errno.EPERM})


def link(
    caller: Caller,
    packages: Sequence[LockedPackage],
    unpacked: Mapping[str, Path],
    prefix: Path,
    *,
    scratch: Path,
    requested: Sequence[str],
    report: Reporter,
) -> Linked:
    """Make `prefix`, which must not be there, of `packages`; `unpacked` says where each lies. Runs no script."""
    if os.path.lexists(prefix):
        # conda would take away what stands there before it makes its own (conda issue 15071).
        raise Corrupt(f"conda is not started on {prefix}: something stands there already")
    found = scripts(packages, unpacked)
    if not packages:
        prefix.mkdir()
        return Linked((), ())
    cache = scratch / "pkgs"
    cache.mkdir(parents=True)
    (cache / "urls.txt").touch()  # by this file conda knows a package cache
    for package in packages:
        _place(package, unpacked[package.name], cache)
    listing = scratch / "explicit.txt"
    lines = [one.url + (f"#{one.md5}" if one.md5 else "") for one in packages]
    listing.write_text("\n".join(["@EXPLICIT", *lines, ""]), encoding="utf-8")
    arguments = ["create", "--prefix", str(prefix), "--file", str(listing), "--offline", "--json", "--quiet", "--yes"]
    caller.ask(
        arguments,
        cache=cache,
        phase="link",
        doing=f"cannot link into {prefix}",
        environ={"CONDA_SAFETY_CHECKS": "disabled", "CONDA_EXTRA_SAFETY_CHECKS": "false"},
    )
    for package, where in found:
        (prefix / where).unlink(missing_ok=True)
        _link_or_copy(str(unpacked[package.name] / where), str(prefix / where))
    _settle_records(prefix, {package.name: package for package in packages}, unpacked, requested)
    report(Event("progress", "link", "", len(packages), len(packages), "packages"))
    return Linked((), tuple(found))


def _place(package: LockedPackage, entry: Path, cache: Path) -> None:
    """Put an unpacked package into conda's cache under the name that conda expects."""
    file_name = unquote(urlsplit(package.url).path.rpartition("/")[2])
    directory = cache / file_name.removesuffix(".conda").removesuffix(".tar.bz2")
    rewritten = _rewritten(entry)

    def copy(source: str, target: str) -> None:
        path = os.path.relpath(source, entry)
        if _is_script(package, path):
            Path(target).touch()
            os.chmod(target, 0o755)  # noqa: S103 - as in the package
        elif rewritten is None or path in rewritten:
            shutil.copy2(source, target)
            os.chmod(target, os.stat(target).st_mode | 0o200)
        else:
            _link_or_copy(source, target)

    shutil.copytree(entry, directory, symlinks=True, copy_function=copy)
    record = directory / "info" / "repodata_record.json"
    record.unlink(missing_ok=True)
    record.write_text(json.dumps(_record(package, entry, file_name)), encoding="utf-8")


def _record(package: LockedPackage, entry: Path, file_name: str) -> dict[str, object]:
    """Return what a channel says of the package: its own index, corrected by the lockfile."""
    record = json.loads((entry / "info" / "index.json").read_bytes())
    if (str(record.get("name")).lower(), str(record.get("version"))) != (package.name.lower(), package.version):
        raise Corrupt(
            f"the archive {package.url} holds {record.get('name')} {record.get('version')}, "
            f"not {package.name} {package.version}",
            package=package.name,
        )
    record |= {"fn": file_name, "url": package.url, "channel": package.url.rpartition("/")[0]}
    record |= {key: value for key in ("md5", "sha256", "subdir") if (value := getattr(package, key))}
    if package.dependencies:
        record["depends"] = [f"{name} {rest}".strip() for name, rest in package.dependencies]
    return dict(record)


def _rewritten(entry: Path) -> frozenset[str] | None:
    """Return the files of a package that conda writes the prefix into; ``None``: it has no list, maybe all."""
    try:
        listed = json.loads((entry / "info" / "paths.json").read_bytes())["paths"]
        return frozenset(one["_path"] for one in listed if one.get("prefix_placeholder"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_script(package: LockedPackage, path: str) -> bool:
    stem = f"bin/.{package.name}-"
    return path.startswith(stem) and path.endswith("-link.sh")


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _UNLINKABLE:
            raise
        shutil.copy2(source, target)


def _settle_records(
    prefix: Path, packages: Mapping[str, LockedPackage], unpacked: Mapping[str, Path], requested: Sequence[str]
) -> None:
    """Let the records name the entries of the package cache, and what was asked for, as they do when rattler links."""
    for path in (prefix / "conda-meta").glob("*.json"):
        record = json.loads(path.read_bytes())
        name = record.get("name")
        if name not in packages:
            continue  # whatever it is, the check of the records finds it
        record["extracted_package_dir"] = str(unpacked[name])
        record.pop("package_tarball_full_path", None)
        if isinstance(record.get("link"), dict):
            record["link"]["source"] = str(unpacked[name])
        record.pop("requested_spec", None)
        record["requested_specs"] = [text for text in requested if conda_name(text) == name]
        path.unlink()
        path.write_text(json.dumps(record, indent=2, sort_keys=True), encoding="utf-8")
        path.chmod(0o644)
