"""Tools are started with nothing of the caller's, die with the builder, and are waited for and no longer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from envmgr.backends.processes import TAIL_LINES, run

PATH = {"PATH": "/usr/bin:/bin"}


def _python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


def test_a_tool_gets_exactly_what_is_passed(tmp_path: Path) -> None:
    """No variable, no standard input, no unexpected descriptor; umask 022, whatever the caller's is."""
    code = "import os, sys; print(sorted(os.environ)); print(sys.stdin.read() == ''); print(oct(os.umask(0)))"
    old = os.umask(0o077)
    try:
        finished = run(_python(code), environ={"A": "1", "LC_ALL": "C.UTF-8"}, cwd=tmp_path)
    finally:
        os.umask(old)
    assert finished.status == 0
    assert finished.tail == ("['A', 'LC_ALL']", "True", "0o22")


def test_lines_arrive_while_the_tool_runs(tmp_path: Path) -> None:
    """The callback hears a line before the tool ends: the tool waits for the callback's answer."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    heard: list[str] = []

    def on_line(line: str) -> None:
        heard.append(line)
        if line == "ready":
            fifo.write_text("go")

    finished = run(["sh", "-c", f"echo ready; cat {fifo}; echo; printf 'half' >&2"], environ=PATH, on_line=on_line)
    assert heard == ["ready", "go", "half"]
    assert finished.text == "ready\ngo\nhalf"


def test_only_the_end_of_a_long_output_is_kept() -> None:
    """A tool that never stops talking, or never ends its line, does not fill the builder's memory."""
    finished = run(_python("for i in range(1000): print(i)\nprint('x' * 300000, end='')"), environ=PATH)
    assert len(finished.tail) == TAIL_LINES
    assert sum(len(line) for line in finished.tail[-5:]) > 250_000
    assert "999" in finished.tail


def test_the_status_tells_how_it_ended() -> None:
    """An exit status is passed on; a signal is its negative number; what cannot be started is an OSError."""
    assert run(["sh", "-c", "exit 3"], environ=PATH).status == 3
    assert run(["sh", "-c", "kill -9 $$"], environ=PATH).status == -signal.SIGKILL
    with pytest.raises(OSError, match="no-such-tool"):
        run(["/no-such-tool"], environ=PATH)


def test_a_limit_ends_the_tool() -> None:
    """A tool that does not end is killed at its limit, and the answer says so."""
    finished = run(["cat", "/dev/zero"], environ=PATH, timeout_s=0.2, on_line=lambda _line: None)
    assert finished.is_timed_out
    assert finished.status == -signal.SIGKILL


def test_what_a_tool_leaves_behind_is_not_waited_for() -> None:
    """A grandchild that keeps the output open does not hold the caller."""
    finished = run(["sh", "-c", "tail -f /dev/null & echo $!"], environ=PATH, timeout_s=20)
    os.kill(int(finished.tail[0]), signal.SIGKILL)
    assert (finished.status, finished.is_timed_out) == (0, False)


def test_the_lease_is_inherited(tmp_path: Path) -> None:
    """The tool holds the descriptors that it is passed, under the same numbers."""
    path = tmp_path / "lease"
    path.write_text("")
    with path.open() as lease:
        code = f"import os; print(os.readlink('/proc/self/fd/{lease.fileno()}'))"
        assert run(_python(code), environ=PATH, pass_fds=[lease.fileno()]).tail == (str(path),)


def test_a_tool_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    """SIGKILL of the builder alone ends the tool: the kernel does it, nobody has to be there to look."""
    reader, writer = os.pipe()
    tool = f"import os, signal; os.write({writer}, b'started\\n'); signal.pause()"
    code = (
        f"import sys; sys.path.insert(0, {os.getcwd()!r})\n"
        "from envmgr.backends.processes import run\n"
        f"run({_python(tool)!r}, environ={PATH!r}, pass_fds=[{writer}])"
    )
    builder = subprocess.Popen([sys.executable, "-c", code], pass_fds=[writer])
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert pipe.readline() == "started\n"
        builder.kill()
        builder.wait()
        assert pipe.read() == ""  # end of file: nobody holds the pipe any more, so the tool is gone, too


def test_an_error_in_the_callback_ends_the_tool() -> None:
    """A cancelled build leaves no tool running."""

    def on_line(line: str) -> None:
        raise KeyboardInterrupt(line)

    with pytest.raises(KeyboardInterrupt) as caught:
        run(["sh", "-c", "echo $$; exec tail -f /dev/null"], environ=PATH, on_line=on_line)
    assert not Path("/proc", str(caught.value)).exists()
