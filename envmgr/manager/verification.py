"""verify: compare a published environment with what was recorded when it was made.

Looked at: the record and the lockfile of the build, each file of each conda package against the hash in its
``conda-meta`` record, each file of the pip section against its ``RECORD``, and packages that no lockfile names.
Of a conda package that the pip section was allowed to replace, the files that are there are pip's, and checked as such.
Byte-code is not compared; the interpreter made it from files that are.

Prefixes share inodes with the package cache: one damaged file is damaged in every environment that has the package, and
each damage names them all.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from envmgr import lockfile, ready
from envmgr.errors import Corrupt, EnvironmentNotFound, InvalidSpec, StoreTooNew
from envmgr.model import Damage
from envmgr.store import publication, records

if TYPE_CHECKING:
    from envmgr.names import EnvName
    from envmgr.store.layout import Layout

_DIST_INFO = ".dist-info"


def verify(layout: Layout, name: EnvName, subdir: str) -> tuple[Damage, ...]:
    """Return everything that is wrong with an environment; empty when it is whole. Reads every byte of it.

    Raises `EnvironmentNotFound`.
    """
    lease = ready.acquire(str(layout.root), name)
    if lease is None:
        raise EnvironmentNotFound(f"{name} is not in {layout.root}", hint="envmgr list shows what is")
    try:
        prefix = Path(lease.prefix)
        damages = [*_check_record(layout, lease, subdir), *_check_conda(prefix), *_check_pip(prefix)]
    finally:
        lease.close()
    return tuple(_with_names(layout, name, damage) for damage in damages)


def _check_record(layout: Layout, lease: ready.Lease, subdir: str) -> Iterator[Damage]:
    paths = layout.build(lease.build_id)
    try:
        record = records.read_record(layout, lease.name, lease.build_id)
        locked = lockfile.parse(paths.lockfile.read_text(encoding="utf-8"), subdir)
    except (Corrupt, StoreTooNew, InvalidSpec, OSError, UnicodeDecodeError) as error:
        yield Damage(paths.directory, str(error))
        return
    if locked.digest != record.lock_digest:
        yield Damage(paths.lockfile, "is not the lockfile that the build was made from")
    wanted = {package.name: package.version for package in locked.packages if package.manager == "conda"}
    there = {str(meta["name"]): str(meta.get("version")) for _, meta in _conda_meta(Path(lease.prefix))}
    for package in sorted(wanted.keys() | there.keys()):
        if wanted.get(package) != there.get(package):
            yield Damage(
                Path(lease.prefix) / "conda-meta",
                f"{package}: the lockfile has {wanted.get(package)}, the prefix {there.get(package)}",
            )


def _conda_meta(prefix: Path) -> Iterator[tuple[Path, Mapping[str, object]]]:
    for path in sorted((prefix / "conda-meta").glob("*.json")):
        try:
            document = json.loads(path.read_bytes())
        except (OSError, ValueError):
            continue
        if isinstance(document, dict) and "name" in document:
            yield path, document


def _check_conda(prefix: Path) -> Iterator[Damage]:
    seen = False
    of_pip = {_distribution(record.parent.name) for record in _pip_records(prefix)}
    for path, document in _conda_meta(prefix):
        seen = True
        data = document.get("paths_data")
        entries = data.get("paths", []) if isinstance(data, dict) else []
        if _is_replaced(entries, of_pip):
            continue
        for entry in entries if isinstance(entries, list) else ():
            if not isinstance(entry, dict) or "_path" not in entry:
                yield Damage(path, "is not the record of a package that was installed")
                break
            expected = entry.get("sha256_in_prefix") or entry.get("sha256")
            yield from _check_file(prefix / str(entry["_path"]), expected, str(path.stem))
    if not seen and not (prefix / "conda-meta").is_dir():
        yield Damage(prefix, "is no conda prefix any more: conda-meta is missing")


def _check_file(path: Path, expected: str | None, owner: str) -> Iterator[Damage]:
    if not os.path.lexists(path):
        yield Damage(path, f"is missing (of {owner})")
    elif expected and not path.is_symlink():
        try:
            with path.open("rb") as file:
                found = _sha256(file.fileno())
        except OSError as error:
            yield Damage(path, f"cannot be read (of {owner}): {error.strerror}")
            return
        if found.hex() != expected:
            yield Damage(path, f"was changed (of {owner})")


def _sha256(fd: int) -> bytes:
    digest = hashlib.sha256()
    while block := os.read(fd, 1 << 20):
        digest.update(block)
    return digest.digest()


def _check_pip(prefix: Path) -> Iterator[Damage]:
    """Check the distributions that the pip section installed: each names its files in a RECORD (PEP 376)."""
    for record in _pip_records(prefix):
        try:
            with record.open(newline="", encoding="utf-8") as file:
                for row in csv.reader(file):
                    yield from _check_row(record, *(*row, "", "")[:2])
        except FileNotFoundError:
            continue
        except (OSError, ValueError, csv.Error) as error:
            yield Damage(record, f"cannot be read: {error}")


def _pip_records(prefix: Path) -> Iterator[Path]:
    for record in sorted(prefix.glob(f"lib/python*/site-packages/*{_DIST_INFO}/RECORD")):
        with contextlib.suppress(OSError):
            if record.with_name("INSTALLER").read_bytes().strip() == b"uv":
                yield record


def _is_replaced(entries: object, of_pip: set[str]) -> bool:
    """Tell whether a conda package holds a distribution that pip has put another in the place of."""
    paths = [str(one.get("_path")) for one in entries if isinstance(one, dict)] if isinstance(entries, list) else []
    parents = {os.path.basename(os.path.dirname(path)) for path in paths}
    return any(parent.endswith(_DIST_INFO) and _distribution(parent) in of_pip for parent in parents)


def _distribution(dist_info: str) -> str:
    """Return the normalised name of a distribution (PEP 503), from that of its metadata's directory."""
    return re.sub(r"[-_.]+", "-", dist_info.partition("-")[0]).lower()


def _check_row(record: Path, relative: str, hashed: str) -> Iterator[Damage]:
    """Check one file by its row: path from site-packages, ``sha256=`` and urlsafe base64 without padding (PEP 427)."""
    if "\0" in relative:
        raise ValueError(f"{relative!r} is no file's name")
    algorithm, _, value = hashed.partition("=")
    if algorithm != "sha256" or relative.endswith(".pyc"):
        return
    expected = base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True).hex()
    path = Path(os.path.normpath(record.parent.parent / relative))
    yield from _check_file(path, expected, record.parent.name)


def _with_names(layout: Layout, name: EnvName, damage: Damage) -> Damage:
    """Add every environment that shares the damaged bytes (the same inode) with this one."""
    sharing = {name}
    try:
        status = damage.path.stat()
    except OSError:
        return Damage(damage.path, damage.message, (name,))
    if status.st_nlink > 1 and damage.path.is_file():
        own_prefix = next(parent for parent in damage.path.parents if parent.name == name)
        relative = damage.path.relative_to(own_prefix)
        for other, build_id in publication.published(layout).items():
            try:
                there = (layout.build(build_id).prefix(other) / relative).stat()
            except OSError:
                continue
            if (there.st_dev, there.st_ino) == (status.st_dev, status.st_ino):
                sharing.add(other)
    return Damage(damage.path, damage.message, tuple(sorted(sharing)))
