"""Reads the text of a conda-lock.yml (version 1) into a `Lockfile`, without conda-lock.

Rules, beside those of conda-lock's schema:

* Only entries of the asked subdir count, and of those only the category ``main`` (``optional`` says nothing more);
  conda-lock's own ``dev`` and named extras are for those who ask for them, and a spec has no place to.
* A conda package needs a sha256 or an md5; a URL that ends in ``/<subdir or noarch>/<name>-<version>-<build>.conda``
  or ``.tar.bz2`` and agrees with its name and version. A pip package needs a sha256, or a version-control URL with a
  full commit.
* A channel's or package's URL is kept without credentials. A value that YAML reads as a number (``version: 3.10``)
  is refused: its text is lost.
* `Lockfile.virtual_packages` is the union of what our own metadata says and of what packages depend on (``__glibc``).

Every fault raises one `InvalidSpec` that names them all with line and column (`MAX_PROBLEMS` at most). The lines cost
a second reading, which only a faulty document pays.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import yaml

from envmgr.errors import InvalidSpec
from envmgr.lockfile.digests import canonical_name, commit_of, digest
from envmgr.lockfile.urls import strip_credentials
from envmgr.model import BuiltWheel, LockedPackage, Lockfile, Manager, Problem

MAX_CHARS = 32 * 1024 * 1024
MAX_DEPTH = 200
MAX_PROBLEMS = 50
METADATA_PREFIX = "envmgr-"
VIRTUAL_PACKAGES_KEY = "envmgr-virtual-packages"
NOT_REPRODUCIBLE_KEY = "envmgr-not-reproducible"
BUILT_WHEELS_KEY = "envmgr-built-wheels"

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_HEX = re.compile(r"[0-9a-f]+")
_WORD = re.compile(r"[^\s\x00-\x1f\x7f/\\]+")
_WHEEL = re.compile(r"[A-Za-z0-9_.!+]+(?:-[A-Za-z0-9_.!+]+){4,5}\.whl", re.ASCII)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^\s\x00-\x1f\x7f]+")
_ARCHIVE = re.compile(r"(?P<name>.+)-(?P<version>[^-]+)-(?P<build>[^-]+?)(?:\.conda|\.tar\.bz2)")
_Path = tuple["str | int", ...]


def parse(text: str, subdir: str) -> Lockfile:
    """Read the packages for `subdir` out of a conda-lock.yml; raise `InvalidSpec` naming everything that is wrong."""
    document = _load(text)
    reader = _Reader(text, subdir)
    lockfile = reader.read(document)
    reader.raise_problems()
    return lockfile


def _load(text: str) -> object:
    if len(text) > MAX_CHARS:
        raise InvalidSpec(f"the lockfile is larger than {MAX_CHARS // 1024 // 1024} MiB")
    if _nesting(text) > MAX_DEPTH:
        raise InvalidSpec(f"the lockfile is nested deeper than {MAX_DEPTH} levels")
    try:
        return cast("object", yaml.load(text, Loader=_Loader))  # noqa: S506 - a safe loader, the C one where there is
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        problem = Problem(*where, f"not YAML: {error.problem or error.context}")
        raise InvalidSpec(f"the lockfile cannot be read: {problem}", [problem]) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = Problem(0, 0, f"not YAML: {str(error)[:200]}")
        raise InvalidSpec(f"the lockfile cannot be read: {problem}", [problem]) from error


def _nesting(text: str) -> int:
    """Return an upper bound of how deep the document is nested.

    libyaml's composer recurses on the C stack without a limit: 100,000 brackets end the process. In a block, each
    level takes at least one character (a space, ``-``, ``?``) before the line's first word.
    """
    depth = deepest = 0
    for bracket in re.finditer(r"[\[\]{}]", text):
        depth = depth + 1 if bracket.group() in "[{" else max(depth - 1, 0)
        deepest = max(deepest, depth)
    return deepest + max((match.end() - match.start() for match in re.finditer(r"(?m)^[ \t\-?:]+", text)), default=0)


class _Reader:
    """One reading: collects problems as (path into the document, message)."""

    def __init__(self, text: str, subdir: str) -> None:
        self._text = text
        self._subdir = subdir
        self._problems: list[tuple[_Path, str]] = []

    def read(self, document: object) -> Lockfile:
        if not isinstance(document, dict):
            self._say((), "a conda-lock.yml is a mapping with the keys version, metadata and package")
            document = {}
        if document.get("version") != 1 or isinstance(document.get("version"), bool):
            found = _shown(document.get("version")) if "version" in document else "missing"
            self._say(("version",), f"version must be 1, it is {found}")
        metadata = self._mapping(document.get("metadata"), ("metadata",))
        custom = self._mapping(metadata.get("custom_metadata") or {}, ("metadata", "custom_metadata"))
        packages = self._packages(document.get("package"))
        platforms = metadata.get("platforms")
        if not packages and not (isinstance(platforms, list) and self._subdir in platforms):
            known = ", ".join(map(str, platforms[:20])) if isinstance(platforms, list) else "none"
            self._say(
                ("metadata", "platforms"), f"there are no packages for {self._subdir}; the platforms are: {known}"
            )
        virtual = {
            (name, requirement)
            for package in packages
            if package.manager == "conda"
            for name, requirement in package.dependencies
            if name.startswith("__")
        }
        virtual.update(self._pairs(custom, VIRTUAL_PACKAGES_KEY))
        wheels = self._built_wheels(custom, packages)
        return Lockfile(
            subdir=self._subdir,
            channels=self._channels(metadata.get("channels")),
            packages=packages,
            virtual_packages=tuple(sorted(virtual)),
            digest="" if self._problems else digest(packages, wheels),
            text=self._text,
            not_reproducible=tuple(sorted(self._words(custom, NOT_REPRODUCIBLE_KEY))),
            built_wheels=wheels,
        )

    def raise_problems(self) -> None:
        """Raise `InvalidSpec` if anything was found."""
        if not self._problems:
            return
        root = yaml.compose(self._text, Loader=_Loader)
        shown = [_located(root, path, message) for path, message in self._problems[:MAX_PROBLEMS]]
        more = len(self._problems) - len(shown)
        message = f"the lockfile cannot be used: {shown[0]}" + (
            f", and {len(self._problems) - 1} more" if len(self._problems) > 1 else ""
        )
        raise InvalidSpec(message, shown, hint=f"{more} further problems are not listed" if more else None)

    # ------------------------------------------------------------------------------------------------- the packages

    def _packages(self, entries: object) -> tuple[LockedPackage, ...]:
        if not isinstance(entries, list):
            self._say(("package",), "package must be a list")
            return ()
        found: dict[tuple[str, str], LockedPackage] = {}
        for index, entry in enumerate(entries):
            path: _Path = ("package", index)
            if not isinstance(entry, dict):
                self._say(path, "a package must be a mapping")
                continue
            if entry.get("platform") != self._subdir or entry.get("category", "main") != "main":
                if not isinstance(entry.get("platform"), str):
                    self._say(path, "a package needs a platform")
                continue
            package = self._package(entry, path)
            if package is None:
                continue
            key = (package.manager, canonical_name(package))
            if key in found:
                self._say(path, f"the {package.manager} package {package.name} is there twice")
            found[key] = package
        return tuple(found[key] for key in sorted(found))

    def _package(self, entry: Mapping[object, object], path: _Path) -> LockedPackage | None:
        before = len(self._problems)
        manager = entry.get("manager")
        if manager not in {"conda", "pip"}:
            self._say((*path, "manager"), f"manager must be conda or pip, it is {_shown(manager)}")
        name = self._text_of(entry, "name", path, _WORD)
        version = self._text_of(entry, "version", path, _WORD)
        url = strip_credentials(self._text_of(entry, "url", path, _URL))
        hashes = self._mapping(entry.get("hash"), (*path, "hash"))
        sha256 = self._hash(hashes, "sha256", 64, path)
        md5 = self._hash(hashes, "md5", 32, path)
        dependencies = self._dependencies(entry.get("dependencies") or {}, (*path, "dependencies"))
        build: str | None = None
        subdir: str | None = None
        if len(self._problems) == before:
            if manager == "conda":
                if not (sha256 or md5):
                    self._say((*path, "hash"), f"the conda package {name} has neither sha256 nor md5")
                subdir, build = self._conda_file(url, name, version, path)
            elif not sha256 and not commit_of(url):
                self._say((*path, "hash"), f"the pip package {name} has neither sha256 nor a URL with a commit")
        if len(self._problems) > before:
            return None
        return LockedPackage(cast("Manager", manager), name, version, url, sha256, md5, build, subdir, dependencies)

    def _conda_file(self, url: str, name: str, version: str, path: _Path) -> tuple[str | None, str | None]:
        *_, subdir, file_name = ("", *unquote(urlsplit(url).path).split("/"))[-3:]
        match = _ARCHIVE.fullmatch(file_name)
        if match is None:
            self._say((*path, "url"), f"{file_name!r} is not the file name of a conda package")
            return None, None
        if (match["name"].lower(), match["version"]) != (name.lower(), version):
            self._say((*path, "url"), f"{file_name!r} is not {name} {version}")
        if subdir not in {self._subdir, "noarch"}:
            self._say((*path, "url"), f"{name} lies in {subdir!r}, which is neither {self._subdir} nor noarch")
        return subdir, match["build"]

    def _dependencies(self, value: object, path: _Path) -> tuple[tuple[str, str], ...]:
        found = []
        for key, requirement in self._mapping(value, path).items():
            if not isinstance(key, str) or not isinstance(requirement, (str, type(None))):
                self._say((*path, key) if isinstance(key, str) else path, "a dependency must be text; quote it")
            else:
                found.append((key, requirement or ""))
        return tuple(sorted(found))

    def _hash(self, hashes: Mapping[object, object], kind: str, length: int, path: _Path) -> str | None:
        value = hashes.get(kind)
        if value is None:
            return None
        if isinstance(value, str) and len(value) == length and _HEX.fullmatch(value.lower()):
            return value.lower()
        self._say((*path, "hash", kind), f"{kind} must be {length} hexadecimal digits, it is {_shown(value)}")
        return None

    # ------------------------------------------------------------------------------------------------- the metadata

    def _channels(self, value: object) -> tuple[str, ...]:
        if not isinstance(value, list):
            self._say(("metadata", "channels"), "channels must be a list")
            return ()
        found = []
        for index, entry in enumerate(value):
            url = entry.get("url") if isinstance(entry, dict) else entry
            if isinstance(url, str) and url:
                found.append(strip_credentials(url))
            else:
                self._say(("metadata", "channels", index), "a channel must be a URL or a mapping with a url")
        return tuple(found)

    def _json(self, custom: Mapping[object, object], key: str) -> Sequence[object]:
        try:
            value = json.loads(str(custom.get(key) or "[]"))
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, list):
            return value
        self._say(("metadata", "custom_metadata", key), f"{key} must be a JSON list")
        return ()

    def _pairs(self, custom: Mapping[object, object], key: str) -> set[tuple[str, str]]:
        found = set()
        for item in self._json(custom, key):
            if isinstance(item, list) and len(item) == 2 and all(isinstance(part, str) for part in item):
                found.add((item[0], item[1]))
            else:
                self._say(("metadata", "custom_metadata", key), f"{key} must hold pairs of a name and a requirement")
        return found

    def _built_wheels(
        self, custom: Mapping[object, object], packages: Sequence[LockedPackage]
    ) -> tuple[BuiltWheel, ...]:
        sources = {
            it.name
            for it in packages
            if it.manager == "pip" and it.sha256 and not urlsplit(it.url).path.endswith(".whl")
        }
        found: dict[str, BuiltWheel] = {}
        for item in self._json(custom, BUILT_WHEELS_KEY):
            match item:
                case [str(name), str(file_name), str(sha256)] if (
                    name in sources - found.keys()
                    and _WHEEL.fullmatch(file_name)
                    and re.fullmatch("[0-9a-f]{64}", sha256)
                ):
                    found[name] = BuiltWheel(name, file_name, sha256)
                case _:
                    self._say(
                        ("metadata", "custom_metadata", BUILT_WHEELS_KEY),
                        f"{BUILT_WHEELS_KEY} must hold [name, file name, sha256] of wheels, one for a pip package with"
                        " sources and a sha256",
                    )
        return tuple(found[name] for name in sorted(found))

    def _words(self, custom: Mapping[object, object], key: str) -> set[str]:
        return {str(item) for item in self._json(custom, key)}

    # --------------------------------------------------------------------------------------------------- the pieces

    def _say(self, path: _Path, message: str) -> None:
        self._problems.append((path, message))

    def _mapping(self, value: object, path: _Path) -> Mapping[object, object]:
        if isinstance(value, dict):
            return value
        self._say(path, f"{path[-1]} must be a mapping, it is {_shown(value)}")
        return {}

    def _text_of(self, entry: Mapping[object, object], key: str, path: _Path, shape: re.Pattern[str]) -> str:
        value = entry.get(key)
        if isinstance(value, str) and shape.fullmatch(value):
            return value
        if value is None:
            self._say(path, f"a package needs a {key}")
        elif isinstance(value, str):
            self._say((*path, key), f"this is not a {key}: {_shown(value)}")
        else:
            self._say((*path, key), f"{key} must be text, YAML reads it as {_shown(value)}; quote it")
        return ""


def _shown(value: object) -> str:
    if isinstance(value, (dict, list, set)):
        return f"a {type(value).__name__}"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _located(root: yaml.Node | None, path: _Path, message: str) -> Problem:
    """Find the line and column of the deepest part of `path` that the document has."""
    node = root
    for part in path:
        child: yaml.Node | None = None
        if isinstance(node, yaml.MappingNode):
            child = next((value for key, value in node.value if key.value == part), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            child = node.value[part]
        if child is None:
            break
        node = child
    if node is None:
        return Problem(0, 0, message)
    return Problem(node.start_mark.line + 1, node.start_mark.column + 1, message)
