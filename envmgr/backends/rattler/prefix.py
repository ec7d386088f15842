"""A conda prefix as conda wants to find it: records, history, state, and that it is not conda's to change.

Written once, at the end of a build::

    conda-meta/<package>.json   rattler's records, readable to all
    conda-meta/history          what was asked for (``# update specs``), as ``conda env export --from-history`` reads it
    conda-meta/state            the spec's variables, as ``conda activate`` and ``conda run`` set them
    conda-meta/frozen           conda refuses to change the prefix (CEP 22)

Source: conda's ``history.py`` and ``prefix_data.py``; CEP 22 for ``frozen``.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from envmgr.errors import Corrupt
from envmgr.model import LockedPackage

_SHOWN = 5
_WRITE_BITS = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH


def write_metadata(
    prefix: Path, packages: Sequence[LockedPackage], requested: Sequence[str], variables: Sequence[tuple[str, str]]
) -> None:
    """Write history, state and frozen."""
    meta = prefix / "conda-meta"
    meta.mkdir(exist_ok=True)
    _write(meta / "history", _history(packages, requested))
    _write(meta / "state", json.dumps({"version": 1, "env_vars": dict(variables)}, indent=2) + "\n")
    frozen = {"message": "This environment is kept by envmgr and shared; make a new spec instead of changing it."}
    _write(meta / "frozen", json.dumps(frozen) + "\n")


def _write(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)


def _history(packages: Sequence[LockedPackage], requested: Sequence[str]) -> str:
    now = dt.datetime.now(dt.timezone.utc)
    lines = [f"==> {now:%Y-%m-%d %H:%M:%S} <==", "# cmd: envmgr create"]
    lines += [f"+{_dist(package)}" for package in sorted(packages, key=lambda package: package.name)]
    lines.append(f"# update specs: {json.dumps(list(requested), ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def _dist(package: LockedPackage) -> str:
    *channel, subdir, _file_name = urlsplit(package.url).path.split("/")
    name = f"{package.name}-{package.version}-{package.build or '0'}"
    return f"{channel[-1] if channel and channel[-1] else 'channel'}/{subdir}::{name}"


def check_records(prefix: Path, packages: Sequence[LockedPackage]) -> None:
    """Make sure that the records of `prefix` are exactly `packages`; `Corrupt` names the differences."""
    found: dict[str, tuple[str, str, str]] = {}
    for path in (prefix / "conda-meta").glob("*.json"):
        try:
            record = json.loads(path.read_bytes())
            found[record["name"]] = (record["version"], record["url"], record.get("sha256") or record.get("md5") or "")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Corrupt(f"the record {path} cannot be read: {error}", path=str(path)) from error
    wanted = {package.name: (package.version, package.url, package.sha256 or package.md5 or "") for package in packages}
    problems = [f"{name} is missing" for name in sorted(wanted.keys() - found.keys())]
    problems += [f"{name} is there but not locked" for name in sorted(found.keys() - wanted.keys())]
    problems += [
        f"{name} is {' '.join(found[name])}, not {' '.join(wanted[name])}"
        for name in sorted(wanted.keys() & found.keys())
        if found[name] != wanted[name]
    ]
    if problems:
        more = f", and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise Corrupt(
            f"the prefix {prefix} differs from its lockfile: {'; '.join(problems[:_SHOWN])}{more}",
            hint="nothing was published; try again",
            problems=problems,
        )


@dataclass(frozen=True, slots=True)
class Census:
    """What `make_read_only` found: files, and the sum of their sizes."""

    files: int
    size_bytes: int


def measure(prefix: Path) -> int:
    """Return the sum of the sizes of all files in `prefix`, in bytes, as `make_read_only` counts them."""
    paths = (os.path.join(parent, name) for parent, _, names in os.walk(prefix) for name in names)
    return sum(os.path.getsize(path) for path in paths if not os.path.islink(path))


def make_read_only(prefix: Path) -> Census:
    """Take every right to write from the files and directories of `prefix`, itself included; count the files.

    Files that are hard links to the package cache have none already, and are left alone.
    """
    files = size_bytes = 0
    directories = [str(prefix)]
    for directory in directories:
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_symlink():
                    continue
                if entry.is_dir():
                    directories.append(entry.path)
                    continue
                status = entry.stat()
                files += 1
                size_bytes += status.st_size
                if status.st_mode & _WRITE_BITS and stat.S_ISREG(status.st_mode):
                    os.chmod(entry.path, stat.S_IMODE(status.st_mode) & ~_WRITE_BITS)
    for directory in directories:
        os.chmod(directory, stat.S_IMODE(os.stat(directory).st_mode) & ~_WRITE_BITS)
    return Census(files, size_bytes)
