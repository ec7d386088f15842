"""Linkis' Python engine in an environment; the engine is the emulation in examples/linkis, not Linkis."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.processes import no_process_left
from places import CHECKOUT
from program_store import ENVMGR, LIMIT_S, Programs, is_gone

ENGINE = CHECKOUT / "examples" / "linkis" / "engine.py"


@pytest.mark.slow
@pytest.mark.runners
def test_the_example(run_example: Callable[..., str]) -> None:
    """Both forms of ``pythonVersion`` work, the pid is the one to kill, and a missing environment is told at once."""
    run_example("linkis")


def test_a_killed_engine_leaves_nothing(programs: Programs, tmp_path: Path) -> None:
    """With limits, ``kill -9`` of the pid that Python reported also ends what its code had left in the background."""
    note = tmp_path / "pid"
    code = (
        "import os, time\n"
        f"if os.fork() == 0:\n  os.setsid(); open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(300)\n"
        f"while not os.path.exists({str(note)!r}) or not os.path.getsize({str(note)!r}): time.sleep(0.01)\n"
        "print('left it')"
    )
    with no_process_left():
        done = subprocess.run(
            [sys.executable, ENGINE, f"{ENVMGR} run tiny --wall 1h -- {sys.executable}", code],
            env={**programs.environ(), "PATH": os.environ["PATH"]}, cwd=tmp_path, capture_output=True, text=True,
            timeout=LIMIT_S, check=True,
        )  # fmt: skip
        assert done.stdout.splitlines()[1:] == ["left it", "the process has ended with -9"], done.stderr
        assert is_gone(int(note.read_text()))
