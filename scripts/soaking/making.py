"""Makes the channel of a run: ``python -m soaking.making DIRECTORY``; a process of its own, since it loads rattler."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from demo import packages

PACKAGES = 5
FILES = 20


def main(directory: Path) -> None:
    """Make `PACKAGES` packages of some files, each with its own content, and their index."""
    for number in range(PACKAGES):
        files: dict[str, str | bytes] = {
            f"share/soak-{number}/file-{index}.txt": f"{number} {index}\n" * 200 for index in range(FILES)
        }
        packages.fabricate(directory, f"soak-{number}", "1.0", files=files)
    packages.index(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # rattler's threads may crash an interpreter that ends in the usual way
