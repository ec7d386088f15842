"""Times calls of the library in one process: ``calls.py ROOT NAME FILE COUNT``; prints two lists of seconds as JSON.

Each call is ``ensure`` and ``close``; those by name and those by file take turns, in blocks. The byte-code, the
directory entries and the allocator are warm after the first block, which is not counted.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import envmgr

_BLOCK = 100


def main(root: str, name: str, file: Path, count: int) -> None:
    """Time `count` calls of each kind."""
    os.environ["ENVMGR_ROOT"] = root
    by_name: list[float] = []
    by_file: list[float] = []
    _block(name, [])
    _block(file, [])
    for _ in range(count // _BLOCK):
        _block(name, by_name)
        _block(file, by_file)
    print(json.dumps([by_name, by_file]))


def _block(spec: str | Path, took: list[float]) -> None:
    clock, ensure = time.perf_counter, envmgr.ensure
    for _ in range(_BLOCK):
        began = clock()
        ensure(spec).close()
        took.append(clock() - began)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
