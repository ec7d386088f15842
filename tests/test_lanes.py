"""What scripts/test runs side by side: both are done, their words do not mix, and nothing stays when it is stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.processes import LIMIT_S, no_process_left
from places import CHECKOUT

_LANES = f"set -euo pipefail\n. {CHECKOUT / 'scripts' / 'lanes.sh'}\n"


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    with no_process_left():
        yield


def start(script: str, tmp_path: Path, **variables: str) -> subprocess.Popen[str]:
    """Start lanes; `tmp_path` is where they write, their temporary files, too."""
    return subprocess.Popen(
        ["bash", "-c", _LANES + script],
        env={**os.environ, "TMPDIR": str(tmp_path), **variables},
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> list[str]:
    return process.communicate(timeout=LIMIT_S)[0].splitlines()


@pytest.mark.parametrize(("first", "second", "status"), [(0, 0, 0), (1, 0, 1), (0, 3, 1), (2, 2, 1)])
def test_both_are_done_whatever_the_other_did(tmp_path: Path, first: int, second: int, status: int) -> None:
    """Each waits here for the other to begin; what the second says stands behind what the first says."""
    process = start(
        f"mkfifo there back\n"
        f"one() {{ echo 1a; echo x >there; read -r _ <back; echo 1b; return {first}; }}\n"
        f"two() {{ echo 2a; read -r _ <there; echo x >back; echo 2b >&2; return {second}; }}\n"
        "in_lanes one two",
        tmp_path,
    )
    assert said(process) == ["1a", "1b", "2a", "2b"]
    assert process.returncode == status
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "there"]


def test_what_the_second_says_later_is_seen_when_it_says_it(tmp_path: Path) -> None:
    """Once the first has ended, the second's words come as they are said."""
    process = start("mkfifo go\none() { :; }\ntwo() { echo 2a; read -r _ <go; echo 2b; }\nin_lanes one two", tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "2a\n"
    (tmp_path / "go").write_text("x\n")
    assert said(process) == ["2b"]
    assert process.returncode == 0


# A command that cleans up, and one in each lane that it started and that does not; nothing may come after them.
_STOPPED = """
command='import os, subprocess, sys, time
child = subprocess.Popen(["sleep", "1000"])
print("up", flush=True)
try:
    os.close(os.open(sys.argv[1], os.O_WRONLY))
    time.sleep(1000)
except KeyboardInterrupt:
    print("cleaned up", flush=True)'
mkfifo one-up two-up
one() { PYTHON -c "$command" one-up; echo never; }
two() { PYTHON -c "$command" two-up; echo never; }
in_lanes one two
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_is_stopped(tmp_path: Path, number: signal.Signals) -> None:
    """Both hear of it and clean up, what they started ends, and nothing comes after."""
    process = start(_STOPPED.replace("PYTHON", sys.executable), tmp_path)
    for lane in ("one-up", "two-up"):
        _wait_open(tmp_path / lane)
    process.send_signal(number)
    assert said(process) == ["up", "cleaned up", "up", "cleaned up"]
    assert process.returncode == 130


def test_it_is_stopped_when_the_first_lane_has_ended(tmp_path: Path) -> None:
    """Then, too, the second hears of it and says its last words."""
    script = _STOPPED.replace("in_lanes one two", "none() { :; }\nin_lanes none two")
    process = start(script.replace("PYTHON", sys.executable), tmp_path)
    _wait_open(tmp_path / "two-up")
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    assert said(process) == ["cleaned up"]
    assert process.returncode == 130


def test_who_does_not_end_is_killed(tmp_path: Path) -> None:
    """A lane that ignores the signal is bounded, and so is what it started."""
    process = start(
        "trap '' INT\nmkfifo up\none() { :; }\n"
        "two() { sh -c \"trap '' INT; echo x >up; sleep 1000; sleep 1000\"; echo never; }\nin_lanes one two",
        tmp_path,
        ENDING_S="1",
    )
    _wait_open(tmp_path / "up")
    process.send_signal(signal.SIGTERM)
    assert said(process) == []
    assert process.returncode == 130


def _wait_open(path: Path) -> None:
    """Wait until a lane opens its pipe, which `start` may not have made yet."""
    while not path.exists():
        os.sched_yield()
    path.read_bytes()
