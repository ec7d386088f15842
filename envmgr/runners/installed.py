"""Which distributions and versions a prefix has, read from the names of its metadata: no interpreter is started.

What counts is what the interpreter would import, so distributions are those of site-packages (``*.dist-info``,
``*.egg-info``), whoever installed them. The directories' names alone tell name and version; no file is opened, so that
this can be asked for every job. Whether the files are whole was checked when the environment was built.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_SITE_PACKAGES = re.compile(r"python(\d+\.\d+)t?")


@dataclass(frozen=True, slots=True)
class Installed:
    """What a prefix has.

    `python_minor` is such as ``3.11``, ``None`` without an interpreter; `site_packages` are its directories (two where
    a package brought a 64-bit one of its own). `versions` maps each distribution's normalised name to its version.
    """

    prefix: Path
    python_minor: str | None
    site_packages: tuple[Path, ...]
    versions: Mapping[str, str]

    def version(self, name: str) -> str | None:
        """Return the version of a distribution, or ``None``."""
        return self.versions.get(normalised(name))


def of_prefix(prefix: Path) -> Installed:
    """Read what `prefix` has; a prefix without an interpreter has nothing."""
    minor, found = None, []
    for libraries in ("lib", "lib64"):
        for entry in _names(prefix / libraries):
            match = _SITE_PACKAGES.fullmatch(entry)
            directory = prefix / libraries / entry / "site-packages"
            if match is not None and directory.is_dir() and directory.resolve() not in found:
                # By its own name: conda-forge's lib/python3.1 is a link to lib/python3.11.
                minor = minor or directory.resolve().parent.name.removeprefix("python").rstrip("t")
                found.append(directory.resolve())
    versions: dict[str, str] = {}
    for directory in found:
        for entry in _names(directory):
            stem, dot, kind = entry.rpartition(".")
            name, dash, rest = stem.partition("-")
            if dot and dash and kind in ("dist-info", "egg-info"):
                # An egg's name may end in ``-py3.11``.
                versions.setdefault(normalised(name), rest.partition("-")[0])
    has_python = os.access(prefix / "bin" / "python", os.X_OK)
    return Installed(prefix, minor if has_python else None, tuple(found), versions)


def normalised(name: str) -> str:
    """Return a distribution's name as the Python Packaging Authority compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _names(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []
