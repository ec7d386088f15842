"""What goes into the archive of a prefix: which files, from where, and what ``conda-unpack`` has to put right.

Everything is read from the prefix, which was checked and is leased; what conda calls managed or unmanaged makes no
difference, so files that pip brought, or replaced, are what they are. Only for binary files with a placeholder the
package's own file is taken, where the cache has it: the placeholder leaves room for any path, the prefix's for shorter
ones. Files that hold the prefix's path are copied aside: ``conda-unpack`` must be able to write them, and scripts in
``bin`` are rewritten so that they need no conda-unpack at all.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from envmgr.backends import interpreter_hook

if TYPE_CHECKING:
    from envmgr.ready import Lease

_HOOK = (interpreter_hook.PTH_NAME, f"{interpreter_hook.MODULE_PREFIX}.", f"{interpreter_hook.MODULE_PREFIX}_")
_OURS = frozenset({"conda-meta/frozen", "CACHEDIR.TAG"})
_VARIABLES = "etc/conda/activate.d/envmgr-variables.sh"
_LARGEST_TEXT_BYTES = 16 << 20
_BYTE_CODE = re.compile(r"(?P<directory>.*/)__pycache__/(?P<module>[^/.]+)\.[^/]*\.pyc")
_WRITABLE = 0o200


@dataclass(frozen=True, slots=True)
class Record:
    """What conda-unpack replaces by the path where it finds itself."""

    placeholder: str
    mode: Literal["text", "binary"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, symbolic link or empty directory; `target` is its path in the archive."""

    source: str
    target: str
    record: Record | None = None


def of_prefix(lease: Lease, stage: Path, *, check: Callable[[], None]) -> list[Entry]:
    """Return the entries of a leased build's prefix, sorted; files that must differ are written into `stage`.

    `check` is called between files and may raise.
    """
    prefix = Path(lease.prefix)
    staging = _Staging(stage, prefix, _Paths(lease), _binaries(prefix))
    entries = []
    for path, target in _walk(prefix):
        check()
        if target not in _OURS and not os.path.basename(target).startswith(_HOOK):
            entries.append(staging.entry(path, target))
    changed = {entry.target for entry in entries if entry.record is not None and entry.record.mode == "text"}
    entries = [entry for entry in entries if _source_of(entry.target) not in changed]
    script = _variables(prefix)
    if script:
        entries.append(staging.written(_VARIABLES, script.encode(), 0o644))
    return sorted(entries, key=lambda entry: entry.target)


def _walk(prefix: Path) -> Iterator[tuple[str, str]]:
    """Yield the path and the path below `prefix` of everything but directories that have something in them."""
    for directory, directories, files in os.walk(prefix):
        inside = [name for name in directories if os.path.islink(os.path.join(directory, name))]
        names = files + inside if files or directories else [""]
        for name in names:
            path = os.path.join(directory, name).rstrip("/")
            yield path, os.path.relpath(path, prefix)


def _source_of(target: str) -> str | None:
    """Return the module of byte-code, which says nothing once the module was changed and is not asked then."""
    match = _BYTE_CODE.fullmatch(target)
    return None if match is None else f"{match['directory']}{match['module']}.py"


@dataclass(frozen=True, slots=True)
class _Binary:
    source: Path
    placeholder: str


def _binaries(prefix: Path) -> dict[str, _Binary]:
    """Return what conda's records say of binary files that hold a path: by their place, the package's own file."""
    found = {}
    for path in (prefix / "conda-meta").glob("*.json"):
        record = json.loads(path.read_bytes())
        package = Path((record.get("link") or {}).get("source") or record.get("extracted_package_dir") or "/")
        for file in (record.get("paths_data") or {}).get("paths") or ():
            if file.get("file_mode") == "binary" and file.get("prefix_placeholder"):
                target = str(file["_path"])
                found[target] = _Binary(package / str(file.get("original_path") or target), file["prefix_placeholder"])
    return found


class _Paths:
    """The texts by which files of a build may know its prefix: the store may have been reached by another path."""

    def __init__(self, lease: Lease) -> None:
        self._tail = f"/builds/{lease.build_id}/envs/{lease.name}".encode()
        self._known = sorted({lease.prefix.encode(), os.path.realpath(lease.prefix).encode()}, key=len, reverse=True)
        self._any = re.compile(rb"/[^\s\0\"':]*" + re.escape(self._tail))

    def find(self, data: bytes) -> str | None:
        """Return the prefix as it stands in `data`, or ``None``."""
        if self._tail not in data:
            return None
        for known in self._known:
            if known in data:
                return os.fsdecode(known)
        match = self._any.search(data)
        return None if match is None else os.fsdecode(match[0])


@dataclass(frozen=True, slots=True)
class _Staging:
    """Turns files of the prefix into entries; what must differ is written into `stage`."""

    stage: Path
    prefix: Path
    paths: _Paths
    binaries: dict[str, _Binary]

    def entry(self, path: str, target: str) -> Entry:
        if os.path.islink(path):
            return self._link(path, target)
        if os.path.isdir(path):
            return Entry(path, target)
        if target in self.binaries:
            return self._binary(path, target)
        if target.endswith(".pyc") or os.path.getsize(path) > _LARGEST_TEXT_BYTES:
            return Entry(path, target)  # byte-code knows its source's path and does not mind
        data = Path(path).read_bytes()
        found = self.paths.find(data)
        if found is None or not _is_text(data):
            return Entry(path, target)
        if target.startswith("bin/"):
            data = portable_script(data, found)
        record = Record(found, "text") if found.encode() in data else None
        return self.written(target, data, os.stat(path).st_mode | _WRITABLE, record)

    def written(self, target: str, data: bytes, mode: int, record: Record | None = None) -> Entry:
        """Write a file of the archive's own."""
        path = self._new()
        path.write_bytes(data)
        path.chmod(mode & 0o777)
        return Entry(str(path), target, record)

    def _binary(self, path: str, target: str) -> Entry:
        binary, copy = self.binaries[target], self._new()
        try:
            shutil.copyfile(binary.source, copy)
            placeholder = binary.placeholder
        except OSError:  # not in the cache any more, or not ours to read
            shutil.copyfile(path, copy)
            placeholder = self.paths.find(copy.read_bytes()) or str(self.prefix)
        copy.chmod((os.stat(path).st_mode | _WRITABLE) & 0o777)
        return Entry(str(copy), target, Record(placeholder, "binary"))

    def _link(self, path: str, target: str) -> Entry:
        """Let a link that leads into the prefix by its path do so from wherever the archive is unpacked."""
        leads_to = os.readlink(path)
        found = self.paths.find(leads_to.encode())
        if found is None or not leads_to.startswith("/"):
            return Entry(path, target)
        inside = leads_to[leads_to.index(found) + len(found) :].lstrip("/") or "."
        link = self._new()
        link.symlink_to(os.path.relpath(inside, os.path.dirname(target) or "."))
        return Entry(str(link), target)

    def _new(self) -> Path:
        return self.stage / os.urandom(8).hex()


def _is_text(data: bytes) -> bool:
    try:
        return b"\0" not in data[:8192] and bool(data.decode("utf-8"))
    except UnicodeDecodeError:
        return False


_WORD = rb"""(?:'[^'\n]*'|"[^"\n]*"|[^\s'"]+)"""
_TRAMPOLINE = re.compile(rb"\A#!/bin/sh\n'''exec' (" + _WORD + rb")((?: -\S+)*) \"\$0\" \"\$@\"\n' '''\n")
_SHEBANG = re.compile(rb"\A#! *(/[^\n]*)\n")


def portable_script(data: bytes, prefix: str) -> bytes:
    """Return a script whose interpreter is that of its own directory, if it is one of `prefix`.

    An interpreter of Python is named by a line of shell that is a text to Python; others are searched on PATH.
    """
    match = _TRAMPOLINE.match(data)
    if match is not None:
        program, options = shlex.split(os.fsdecode(match[1]))[0], os.fsdecode(match[2]).strip()
    else:
        match = _SHEBANG.match(data)
        if match is None:
            return data
        line = os.fsdecode(match[1])
        inside = line.removeprefix(f"{prefix}/bin/")
        name, _, options = inside.partition(" ")
        program, options = line[: len(line) - len(inside)] + name, options.strip()
    if not program.startswith(f"{prefix}/bin/"):
        return data
    name = os.path.basename(program)
    if name.startswith("python"):
        words = f" {options}" if options else ""
        first = f"""#!/bin/sh\n'''exec' "$(dirname -- "$(realpath -- "$0")")/{name}"{words} "$0" "$@"\n' '''\n"""
    else:
        first = f"#!/usr/bin/env -S {name} {options}\n" if options else f"#!/usr/bin/env {name}\n"
    return first.encode() + data[match.end() :]


def _variables(prefix: Path) -> str:
    """Return the script that sets the spec's variables, which conda keeps in a file that only conda reads."""
    try:
        variables = json.loads((prefix / "conda-meta" / "state").read_bytes()).get("env_vars") or {}
    except (OSError, ValueError):
        return ""
    return "".join(f"export {name}={shlex.quote(str(value))}\n" for name, value in sorted(variables.items()))
