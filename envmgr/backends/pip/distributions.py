"""What is installed in a prefix, read from its metadata without starting the interpreter, and stubs of it for uv.

A stub is a wheel without files that has a distribution's name and version. It carries the requirements of the
distribution's extras (``name[extra]`` in a pip section still pulls them in) and no others: what conda installed
without them, or patched, is not for pip to complain of.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import InvalidVersion, Version


@dataclass(frozen=True, slots=True)
class Distribution:
    """One installed distribution; `extras` are its extras, `extra_requirements` those that only an extra needs."""

    name: NormalizedName
    version: Version
    extras: tuple[str, ...]
    extra_requirements: tuple[str, ...]


def installed(site_packages: Iterable[Path]) -> dict[NormalizedName, Distribution]:
    """Return the distributions by name; one whose version is not of PEP 440 is left out, since pip cannot judge it."""
    found: dict[NormalizedName, Distribution] = {}
    for directory in site_packages:
        for path in _metadata_files(directory):
            distribution = _read(path)
            if distribution is not None:
                found.setdefault(distribution.name, distribution)
    return found


def _metadata_files(directory: Path) -> Iterator[Path]:
    for entry in sorted(directory.glob("*.dist-info")):
        yield entry / "METADATA"
    for entry in sorted(directory.glob("*.egg-info")):
        yield entry / "PKG-INFO" if entry.is_dir() else entry


def _read(path: Path) -> Distribution | None:
    try:
        message: Message = HeaderParser().parsestr(path.read_text("utf-8", "replace"))
        version = Version(str(message["Version"]))
    except (OSError, InvalidVersion):
        return None
    if not message["Name"]:
        return None
    return Distribution(
        name=canonicalize_name(str(message["Name"])),
        version=version,
        extras=tuple(map(str, message.get_all("Provides-Extra") or ())),
        extra_requirements=tuple(_only_for_extras(message.get_all("Requires-Dist") or ())),
    )


def _only_for_extras(lines: Iterable[object]) -> Iterator[str]:
    for line in lines:
        try:
            requirement = Requirement(str(line))
        except InvalidRequirement:
            continue
        if requirement.marker is not None and "extra" in str(requirement.marker):
            yield str(requirement)


def write_stub(directory: Path, distribution: Distribution) -> Path:
    """Write the stub wheel of `distribution` into `directory` and return its path."""
    name = distribution.name.replace("-", "_")
    info = f"{name}-{distribution.version}.dist-info"
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {distribution.name}",
        f"Version: {distribution.version}",
        *(f"Provides-Extra: {extra}" for extra in distribution.extras),
        *(f"Requires-Dist: {requirement}" for requirement in distribution.extra_requirements),
    ]
    files = {
        f"{info}/METADATA": "".join(f"{line}\n" for line in lines),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: envmgr\nRoot-Is-Purelib: true\nTag: py2.py3-none-any\n",
    }
    record = "".join(f"{path},{_record_hash(text)},{len(text.encode())}\n" for path, text in files.items())
    path = directory / f"{name}-{distribution.version}-py2.py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(zipfile.ZipInfo(member), text)  # a fixed time: the same stub has the same hash
    return path


def _record_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
