"""The conda that conda-lock carries (24.7, with its classic solver), as an executable: real code, but no installation.

conda-lock needs it for little and has left out what it imports beside; the development requirements bring that.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from envmgr.backends.conda import executable
from envmgr.backends.conda.executable import Conda
from envmgr.errors import UsageError

_NEEDS = ("archspec", "conda_lock", "conda_package_handling", "pycosat", "tqdm")


def missing() -> str | None:
    """Return what is not there, or ``None``."""
    lacking = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    return f"no conda, mamba or micromamba on this host, nor {', '.join(lacking)} for conda-lock's" if lacking else None


def found() -> Conda | None:
    """Return this host's own conda, mamba or micromamba, if it has one."""
    try:
        return executable.find(None, os.environ)
    except UsageError:
        return None


def install(home: Path) -> Path:
    """Make the executable below `home`, and return its path."""
    spec = importlib.util.find_spec("conda_lock")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("conda_lock")
    (home / "lib").mkdir(parents=True)
    (home / "bin").mkdir()
    (home / "lib" / "conda").symlink_to(Path(spec.origin).parent / "_vendor" / "conda")
    path = home / "bin" / "conda"
    path.write_text(
        f'#!/bin/sh\nCONDA_SOLVER=classic PYTHONPATH={home}/lib exec {sys.executable} -W ignore -m conda "$@"\n'
    )
    path.chmod(0o755)
    return path
