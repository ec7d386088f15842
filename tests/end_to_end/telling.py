"""A caller of the library that tells of phases and can end in one: ``telling.py SPEC [PHASE self|builder]``.

Each phase's begin is a line on standard output. In PHASE it sends SIGKILL to itself, or to its builder.
"""

# ruff: noqa: T201 - printing is what it is for

import os
import signal
import sys
from pathlib import Path

import envmgr
from envmgr.events import Event


def main(spec: Path, phase: str = "", whom: str = "") -> None:
    def report(event: Event) -> None:
        if event.kind != "begin":
            return
        print(event.phase, flush=True)
        if event.phase == phase:
            me = os.getpid()
            threads = [Path(f"/proc/self/task/{task}/children").read_text() for task in os.listdir("/proc/self/task")]
            (builder,) = [int(pid) for text in threads for pid in text.split()]
            os.kill(me if whom == "self" else builder, signal.SIGKILL)

    try:
        with envmgr.ensure(spec, on_progress=report) as environment:
            print(environment.name, flush=True)
    except envmgr.EnvmgrError as error:
        print(error.code, error.is_transient, error.message, flush=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
