"""What a warm `create` is compared with: a program that does the same work with nothing around it.

::

    bare.py lock PREFIX OUT          write the packages of PREFIX as rattler's own lockfile
    bare.py install REQUEST.json     install them: rattler, then uv, then compileall, then syncfs

``REQUEST.json``: ``lock``, ``prefix``, ``cache``; ``pylock``, ``uv`` and ``uv_cache`` (or ``pylock`` null: no pip
section); ``is_compiled``; ``is_synced``; ``report`` (a file for the seconds of each part). Nothing is checked, locked,
recorded or published, and no lockfile is parsed but rattler's own, which takes a millisecond.

Started by its path; it imports nothing of envmgr.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from rattler import LockChannel, LockFile, LockPlatform, PrefixRecord
from rattler import install as rattler_install


def lock(prefix: Path, out: Path) -> None:
    """Write down what is installed in `prefix`."""
    records = [PrefixRecord.from_path(path) for path in sorted((prefix / "conda-meta").glob("*.json"))]
    subdir = next((record.subdir for record in records if record.subdir != "noarch"), "linux-64")
    platform = LockPlatform(subdir)
    written = LockFile([platform])
    written.set_channels("default", [LockChannel(url) for url in sorted({str(record.channel) for record in records})])
    for record in records:
        written.add_conda_package("default", platform, record)
    written.to_path(out)


def install(request: dict[str, Any]) -> None:
    """Do the work."""
    took: dict[str, float] = {}
    environment = LockFile.from_path(request["lock"]).default_environment()
    if environment is None:
        raise SystemExit("the lockfile has no environment")
    (platform,) = environment.platforms()
    records = environment.conda_repodata_records_for_platform(platform)
    prefix = request["prefix"]
    began = time.perf_counter()
    asyncio.run(rattler_install(records or [], prefix, cache_dir=request["cache"], show_progress=False))
    began = _note(took, "link", began)
    python = f"{prefix}/bin/python"
    if request["pylock"] is not None:
        subprocess.run(
            [
                request["uv"], "pip", "install", "--quiet", "--preview-features", "pylock", "--no-deps", "--no-index",
                "--break-system-packages", "--python", python, "--cache-dir", request["uv_cache"],
                "--requirements", request["pylock"],
            ],
            check=True,
        )  # fmt: skip
        began = _note(took, "pip", began)
    if request["is_compiled"] and os.path.exists(python):
        library = next(Path(prefix, "lib").glob("python3.*"))
        # Its status tells of files that do not compile, which every standard library has.
        subprocess.run(
            [python, "-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash", library],
            check=False,
            stdout=subprocess.DEVNULL,
        )
        began = _note(took, "compile", began)
    if request["is_synced"]:
        fd = os.open(prefix, os.O_RDONLY | os.O_DIRECTORY)
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), "syncfs")
        _note(took, "sync", began)
    Path(request["report"]).write_text(json.dumps(took))


def _note(took: dict[str, float], part: str, began: float) -> float:
    now = time.perf_counter()
    took[part] = now - began
    return now


if __name__ == "__main__":
    if sys.argv[1] == "lock":
        lock(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        install(json.loads(Path(sys.argv[2]).read_text()))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # rattler's threads may crash an interpreter that ends in the usual way
