"""Many processes that ask for environments at one moment: ``asking.py COUNT SPEC...``, one JSON line for each answer.

All are forked, wait until the last of them is there, and then ask.
"""

import json
import os
import sys
from pathlib import Path

import envmgr
from envmgr import wiring


def ask(spec: Path, gate: int) -> None:
    os.read(gate, 1)  # returns when the last writer of the pipe is gone
    began: list[str] = []
    try:
        with envmgr.ensure(spec, on_progress=lambda event: began.append(event.phase)) as environment:
            answer = {"name": environment.name, "prefix": str(environment.prefix), "built": environment.built}
    except envmgr.EnvmgrError as error:
        answer = error.to_json()
    os.write(1, json.dumps({**answer, "phases": sorted(set(began))}).encode() + b"\n")


def main(count: int, specs: list[Path]) -> None:
    wiring.settings(Path(os.environ["ENVMGR_ROOT"]))  # imported once, before the fork
    read, write = os.pipe()
    for number in range(count):
        if os.fork() == 0:
            os.close(write)
            ask(specs[number % len(specs)], read)
            os._exit(0)
    os.close(read)
    os.close(write)
    for _ in range(count):
        os.wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), [Path(word) for word in sys.argv[2:]])
