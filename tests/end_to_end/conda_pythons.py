"""Which interpreters this machine has that can be made conda packages of: those of pyenv."""

from __future__ import annotations

import os
from pathlib import Path

OLDEST = (3, 6)
NEWEST = (3, 13)


def oldest_and_newest() -> dict[str, Path]:
    """Return ``3.x`` -> executable of the oldest and the newest supported interpreter; empty where there are none."""
    root = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    found: dict[tuple[int, int], Path] = {}
    for executable in sorted(root.glob("3.*.*/bin/python")):
        major, minor = executable.parents[1].name.split(".")[:2]
        if minor.isdigit() and OLDEST <= (int(major), int(minor)) <= NEWEST:
            found[int(major), int(minor)] = executable
    ends = sorted({min(found), max(found)}) if found else []
    return {f"{major}.{minor}": found[major, minor] for major, minor in ends}
