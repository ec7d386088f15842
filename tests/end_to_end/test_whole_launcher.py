"""`envmgr-python` that is ended while it builds leaves as little as ``envmgr create``."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from answers import ended
from backends.backend_servers import serve
from test_whole_kills import Held
from whole_hosts import Host, all_of, processes_of_builds

pytestmark = pytest.mark.usefixtures("orphanage")

LAUNCHER = ("-I", "-c", "from envmgr.launcher import main; main()")
STANDARD = (1 << 31) - 1
"""The signals that are not the C library's own."""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_signals_to_a_launcher_that_builds_leave_nothing(
    host: Host, small_channel: Path, number: signal.Signals, code: int
) -> None:
    """A signal in the middle of its build ends the launcher with 128 + its number; no build and no process stays."""
    with serve(small_channel) as server:
        held = Held(server, ".conda")
        spec = host.spec("one", channels=[held.url])
        environ = {**host.environ(), "ENVMGR_SPEC": str(spec)}
        with all_of([host.start(program=LAUNCHER, env=environ)]) as (process,):
            held.wait()
            process.send_signal(number)
            answer = ended(process)
        assert (answer.code, answer.out) == (code, "")
        assert "Traceback" not in answer.err
        assert processes_of_builds(host.root) == []
        assert host.builds() == []
        assert host.litter() == []
        held.release()
        host.check_recovers(spec)


def test_an_interpreter_that_was_built_first_has_the_usual_signals(python_host: Host) -> None:
    """What the launcher does with signals while it builds does not reach the interpreter that it becomes."""
    spec = python_host.spec("python", "pip", name="launched.yml")
    program = "print(open('/proc/self/status').read())"
    lines = []
    for _ in ("built", "ready"):
        environ = {**python_host.environ(), "ENVMGR_SPEC": str(spec)}
        answer = ended(python_host.start("-c", program, program=LAUNCHER, env=environ))
        assert answer.code == 0, answer.err
        lines.append([line for line in answer.out.splitlines() if line.startswith(("SigIgn", "SigCgt", "SigBlk"))])
    assert lines[0] == lines[1]
    for name, mask in (line.split(":") for line in lines[0]):
        asked = int(mask, 16) & STANDARD & sum(1 << (number - 1) for number in (signal.SIGTERM, signal.SIGHUP))
        assert asked == 0, name
