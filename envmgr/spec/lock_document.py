"""A conda-lock.yml as spec: its identity is its artifacts.

Each artifact is its manager, platform, name, version and category, and what its bytes are: the sha256, else the md5,
else (a pip package from git) the URL with its full commit. URLs, metadata and the order of the packages are no part of
the identity, so a mirror or a re-rendered file keeps the name. An artifact without a hash refuses the document.

Source: conda-lock's lockfile format, version 1.
"""

from __future__ import annotations

import re

from envmgr.spec.document import Mapping, Node, Scalar, Sequence
from envmgr.spec.platforms import is_subdir
from envmgr.spec.problems import Findings, Refusal, shown
from envmgr.spec.urls import parse_url

_VERSION_1 = ("1",)
_HASHES = (("sha256", 64), ("md5", 32))
_GIT = re.compile(r"git\+\S+@[0-9a-f]{40}(?:#\S*)?")
_SCHEMES = ("file", "ftp", "git+http", "git+https", "git+ssh", "http", "https", "oci", "s3")


def is_lock_document(root: Mapping) -> bool:
    """Tell whether a document is a conda-lock.yml: it has ``metadata`` and a list called ``package``."""
    return isinstance(root.get("package"), Sequence) and isinstance(root.get("metadata"), Mapping)


def artifacts(root: Mapping, findings: Findings) -> list[tuple[str, ...]]:
    """Return the artifacts as `envmgr.spec.canonical` wants them, noting every problem."""
    version = root.get("version")
    if not isinstance(version, Scalar) or version.value not in _VERSION_1:
        at = version or root
        findings.problem(at.line, at.column, "the lockfile is not of version 1 of conda-lock's format")
    package = root.get("package")
    found = []
    for item in package.items if isinstance(package, Sequence) else ():
        try:
            found.append(_artifact(item, findings))
        except Refusal as refusal:
            findings.refusal(item.line, item.column, refusal)
    return found


def _artifact(item: Node, findings: Findings) -> tuple[str, ...]:
    if not isinstance(item, Mapping):
        raise Refusal("a package of the lockfile is not a mapping")
    manager, platform, name, version = (_text(item, key) for key in ("manager", "platform", "name", "version"))
    if manager not in ("conda", "pip"):
        raise Refusal(f"the lockfile's package {shown(name)} has the manager {shown(manager)}", "conda or pip")
    if not is_subdir(platform):
        raise Refusal(f"the lockfile's package {shown(name)} has the platform {shown(platform)}")
    url = parse_url(_text(item, "url"), schemes=_SCHEMES)
    if url.had_credentials:
        findings.has_credentials = True
        findings.warn(item.line, item.column, f"the URL of {shown(name)} has credentials; they are not used")
    category = item.get("category")
    categories = "main" if category is None else _text(item, "category")
    return manager, platform, name, version, categories, _content(item, manager, name, str(url))


def _content(item: Mapping, manager: str, name: str, url: str) -> str:
    if manager == "pip" and _GIT.fullmatch(url):
        return f"url:{url}"
    hashes = item.get("hash")
    for algorithm, length in _HASHES:
        value = hashes.get(algorithm) if isinstance(hashes, Mapping) else None
        if isinstance(value, Scalar) and not value.is_null:
            digest = value.value.lower()
            if re.fullmatch(f"[0-9a-f]{{{length}}}", digest) is None:
                raise Refusal(f"the {algorithm} of {shown(name)} has not {length} hexadecimal digits")
            return f"{algorithm}:{digest}"
    raise Refusal(f"the lockfile's package {shown(name)} has no hash", "lock it again with hashes")


def _text(item: Mapping, key: str) -> str:
    value = item.get(key)
    if not isinstance(value, Scalar) or value.is_null or not value.value.strip():
        raise Refusal(f"a package of the lockfile has no {key}")
    if not value.value.isascii() or not value.value.isprintable():
        raise Refusal(f"the {key} of a package of the lockfile has characters that it may not have")
    return value.value.strip()
