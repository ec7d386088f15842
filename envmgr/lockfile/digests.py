"""The digest of a set of artifacts: what "same name, same packages" is measured by.

``envmgr-lock-1`` is the SHA-256 of a UTF-8 text: the line ``envmgr-lock-1``, then one line for each package, sorted by
code points, each ended by one line feed. A package's line has four fields with one space between:

1. the manager, ``conda`` or ``pip``;
2. the name: in lower case; of pip also with each run of ``-``, ``_``, ``.`` as one ``-`` (PEP 503);
3. the version, as the lockfile spells it;
4. what its bytes are: ``sha256:<64 hex>``, else ``md5:<32 hex>``, else ``commit:<hex>`` for a pip package out of
   version control, followed by ``#<fragment>`` if its URL has one (``subdirectory=…``).

A wheel that was built from a source distribution and locked with it (`BuiltWheel`) is one more line: ``wheel``, the
package's name, the wheel's file name, ``sha256:<64 hex>``. Without such wheels the text is what it was before them.

Where a package comes from is not part of it, so that a mirror changes nothing. A package listed twice counts once.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from envmgr.model import BuiltWheel, LockedPackage

FORMAT = "envmgr-lock-1"
_COMMIT = re.compile(r"@([0-9a-fA-F]{7,64})(#.*)?$")


def digest(packages: Iterable[LockedPackage], built_wheels: Iterable[BuiltWheel] = ()) -> str:
    """Return the digest of `packages` in any order; `ValueError` where one has neither hash nor commit."""
    return hashlib.sha256(canonical_text(packages, built_wheels).encode()).hexdigest()


def canonical_text(packages: Iterable[LockedPackage], built_wheels: Iterable[BuiltWheel] = ()) -> str:
    """Return the text that is hashed."""
    lines = {_line(package) for package in packages} | {_wheel_line(wheel) for wheel in built_wheels}
    return "".join(f"{line}\n" for line in [FORMAT, *sorted(lines)])


def canonical_name(package: LockedPackage) -> str:
    """Return the name under which a package is the same package."""
    return _pip_name(package.name) if package.manager == "pip" else package.name.lower()


def commit_of(url: str) -> str | None:
    """Return ``<commit>`` or ``<commit>#<fragment>`` of a version-control URL that names one, else ``None``."""
    match = _COMMIT.search(url) if url.partition("://")[0].startswith(("git+", "hg+", "svn+", "bzr+")) else None
    return match.group(1).lower() + (match.group(2) or "") if match else None


def _line(package: LockedPackage) -> str:
    if package.sha256:
        what = f"sha256:{package.sha256.lower()}"
    elif package.md5:
        what = f"md5:{package.md5.lower()}"
    elif commit := commit_of(package.url):
        what = f"commit:{commit}"
    else:
        raise ValueError(f"{package.manager} package {package.name} {package.version} has neither hash nor commit")
    return _joined(package.manager, canonical_name(package), package.version, what)


def _wheel_line(wheel: BuiltWheel) -> str:
    return _joined("wheel", _pip_name(wheel.name), wheel.file_name, f"sha256:{wheel.sha256.lower()}")


def _joined(*fields: str) -> str:
    if any(not field or field.split() != [field] for field in fields):
        raise ValueError(f"{fields[0]} package {fields[1]!r} {fields[2]!r} has a field with white space")
    return " ".join(fields)


def _pip_name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.lower())
