"""Makes the channel of fabricated packages: ``python -m benchmarks.fabricating DIRECTORY``.

* ``many-0`` … ``many-299``, of `FILES` small files each; ``many`` depends on all of them;
* ``bulky-0`` …, each with bytes that do not compress: for downloads that are held up;
* ``small``: as little as an environment can be.

A process of its own, because it loads rattler-build.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

FORMAT = 1
MANY = 300
FILES = 20
BULKY = 12
_BULKY_BYTES = 600_000
_LINES = 40


def main(directory: Path) -> None:
    """Make the packages, then their index."""
    from demo import packages  # noqa: PLC0415 - rattler-build: not for those who only want the numbers above

    for number in range(MANY):
        files: dict[str, str | bytes] = {
            f"share/many-{number}/{index // 5}/file-{index}.txt": f"{number} {index}\n" * (_LINES * (1 + index % 4))
            for index in range(FILES)
        }
        packages.fabricate(directory, f"many-{number}", "1.0", files=files)
    packages.fabricate(directory, "many", "1.0", depends=[f"many-{number} 1.0" for number in range(MANY)])
    for number in range(BULKY):
        content = random.Random(number).randbytes(_BULKY_BYTES)  # noqa: S311 - no secret
        packages.fabricate(directory, f"bulky-{number}", "1.0", files={f"share/bulky-{number}.bin": content})
    packages.fabricate(directory, "small", "1.0")
    packages.index(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # rattler's threads may crash an interpreter that ends in the usual way
