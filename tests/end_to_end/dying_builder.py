"""A builder that is killed at a point of one of its durable steps: ``dying_builder.py FILE NUMBER ARGUMENT...``.

It is the real builder with an observer of `envmgr.fsio`, which appends every point to FILE and ends the process, as
SIGKILL from outside would, at the point of that number (never for a negative one).
"""

import importlib.util
import itertools
import os
import signal
import sys
import threading
from pathlib import Path


def main(log: Path, number: int, arguments: list[str]) -> None:
    path = Path(__file__).resolve().parents[2] / "envmgr" / "builder" / "__main__.py"
    spec = importlib.util.spec_from_file_location("builder_main", path)
    assert spec is not None
    assert spec.loader is not None
    start = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(start)
    start._be_importable()

    from envmgr import fsio  # noqa: PLC0415 - importable from here on
    from envmgr.builder import process  # noqa: PLC0415

    count = itertools.count()
    lock = threading.Lock()

    def observe(step: fsio.Step, point: str) -> None:
        with lock:
            with log.open("a") as file:
                file.write(f"{step.name} {point}\n")
            if next(count) == number:
                os.kill(os.getpid(), signal.SIGKILL)

    fsio.observer = observe
    process.main(arguments)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
