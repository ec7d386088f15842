"""``envmgr.run`` and ``envmgr run``: a program's life in its environment, with limits and without."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from program_store import BARE, ENVMGR, LIMIT_S, Programs, until

import envmgr
from envmgr.errors import EnvmgrError, InvalidSpec, UsageError

FORMS = pytest.mark.parametrize("limits", [[], ["--wall", "1h"]], ids=["exec", "limited"])
KINDS = pytest.mark.parametrize("limits", [None, envmgr.Limits(wall_s=3600)], ids=["plain", "limited"])
UP = "import sys, time\nprint('up', flush=True)\n"


class TestLibrary:
    @KINDS
    def test_its_output_and_status_come_through(
        self, programs: Programs, tmp_path: Path, limits: envmgr.Limits | None
    ) -> None:
        """The program has the environment's variables on top of the caller's, and the caller learns how it ended."""
        with (tmp_path / "out").open("w+") as out:
            done = envmgr.run(
                programs.spec, ["sh", "-c", 'hello; echo "$COLOUR $MINE"; pwd; cat; exit 3'],
                root=programs.root, env={"PATH": os.defpath, "MINE": "x"}, cwd=tmp_path, limits=limits,
                stdin=subprocess.DEVNULL, stdout=out,
            )  # fmt: skip
            out.seek(0)
            assert out.read() == f"hello\nblue x\n{tmp_path}\n"
        assert (done.status, done.name) == (3, envmgr.name(programs.spec))
        assert done.wall_s > 0
        assert done.cpu_s >= 0
        assert done.peak_memory_bytes is not None
        assert done.peak_memory_bytes > 1 << 16

    @KINDS
    def test_a_signals_status_is_negative(self, programs: Programs, limits: envmgr.Limits | None) -> None:
        """As in `subprocess`."""
        done = envmgr.run("tiny", ["sh", "-c", "kill -SEGV $$"], root=programs.root, limits=limits)
        assert done.status == -signal.SIGSEGV

    def test_where_the_kernel_reaps_children(self, programs: Programs) -> None:
        """A caller that ignores SIGCHLD learns how a limited program ended, and of others that it cannot be known."""
        before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        try:
            done = envmgr.run("tiny", ["sh", "-c", "exit 3"], root=programs.root, limits=envmgr.Limits())
            with pytest.raises(EnvmgrError, match="ignores SIGCHLD"):
                envmgr.run("tiny", ["sh", "-c", "exit 3"], root=programs.root)
        finally:
            signal.signal(signal.SIGCHLD, before)
        assert done.status == 3

    @KINDS
    def test_the_log_is_live(self, programs: Programs, limits: envmgr.Limits | None) -> None:
        """What the program has written can be read while it runs, and the pipe ends with the program's own end."""
        read, write = os.pipe()
        reply, answer = os.pipe()
        thread = threading.Thread(
            target=envmgr.run, args=("tiny", [*BARE, UP + "sys.stdin.read(1); print('end')"]),
            kwargs={"root": programs.root, "limits": limits, "stdin": reply, "stdout": write},
        )  # fmt: skip
        thread.start()
        with open(read, encoding="ascii") as log:
            assert log.readline() == "up\n"
            os.write(answer, b".")
            thread.join(LIMIT_S)
            os.close(write)
            assert log.read() == "end\n"
        os.close(reply)
        os.close(answer)

    @KINDS
    def test_what_cannot_be_executed(self, programs: Programs, limits: envmgr.Limits | None) -> None:
        """The error is the one that `subprocess` raises, and it names the program."""
        for program, kind in (("no-such-program", FileNotFoundError), ("/etc/passwd", PermissionError)):
            with pytest.raises(kind) as caught:
                envmgr.run("tiny", [program], root=programs.root, limits=limits)
            assert caught.value.filename == program

    def test_senseless_calls(self, programs: Programs) -> None:
        """A command is a sequence, nobody would read a pipe, and a limit is a number above zero."""
        with pytest.raises(UsageError, match="sequence"):
            envmgr.run("tiny", "true", root=programs.root)
        with pytest.raises(UsageError, match="pipe"):
            envmgr.run("tiny", ["true"], root=programs.root, stdout=subprocess.PIPE)
        for limits in ({"memory_bytes": 0}, {"cores": 1.5}, {"instances": True}, {"wall_s": "1h"}, {"wait_s": -1}):
            with pytest.raises(UsageError, match=next(iter(limits))):
                envmgr.Limits(**limits)  # type: ignore[arg-type]  # what the check is for
        with pytest.raises(AttributeError, match="walk"):
            envmgr.walk  # noqa: B018

    def test_a_broken_spec(self, programs: Programs, tmp_path: Path) -> None:
        """It is told at once, with line and column, and nothing runs."""
        spec = tmp_path / "broken.yml"
        spec.write_text("dependencies: [numpy==]\nchanels: [x]\n")
        began = time.monotonic()
        with pytest.raises(InvalidSpec) as caught:
            envmgr.run(spec, ["true"], root=programs.root, limits=envmgr.Limits(wall_s=5))
        assert caught.value.problems[0].line == 1
        status, out, err = programs.run(str(spec), "--wall", "5", "--", "echo", "ran")
        assert (status, out) == (3, "")
        assert f"{spec}:1:16: " in err
        assert time.monotonic() - began < 20


class TestCommand:
    @FORMS
    def test_streams_and_status_are_the_programs(self, programs: Programs, limits: list[str]) -> None:
        """Input, output, errors, arguments and descriptors pass, and so does the status, with nothing of ours."""
        process = programs.start("tiny", *limits, "--", "sh", "-c", 'cat; hello; echo "$1" >&2; exit 42', "sh", "a  b")
        assert (*process.communicate("in\n", LIMIT_S), process.returncode) == ("in\nhello\n", "a  b\n", 42)
        read, write = os.pipe()
        process = programs.start(
            "tiny", *limits, "--", *BARE, f"import os; os.write({write}, b'more')", pass_fds=[write]
        )
        os.close(write)
        with open(read, encoding="ascii") as more:
            assert more.read() == "more"
        process.communicate(timeout=LIMIT_S)

    @FORMS
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
    def test_signals_reach_the_program(self, programs: Programs, limits: list[str], number: signal.Signals) -> None:
        """A program that catches a signal ends as it likes."""
        text = f"import signal, sys\nsignal.signal({int(number)}, lambda *_: sys.exit(9))\n{UP}time.sleep(60)"
        with programs.running(*limits, text=text) as process:
            process.send_signal(number)
            assert process.wait(LIMIT_S) == 9

    @FORMS
    def test_ends_by_the_signal_that_ended_the_program(self, programs: Programs, limits: list[str]) -> None:
        """Whoever waits for us sees what he would see of the program."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            status, _, err = programs.run("tiny", *limits, "--", "sh", "-c", f"kill -{int(number)} $$")
            assert (status, err) == (-number, "")

    @FORMS
    def test_signals_are_as_usual_in_the_program(self, programs: Programs, limits: list[str]) -> None:
        """None is blocked or ignored there that was not for us; nohup's SIGHUP stays ignored."""
        command = ["tiny", *limits, "--", "cat", "/proc/self/status"]
        standard = (1 << 31) - 1
        for ignored in ((), (signal.SIGHUP,)):
            before = [signal.signal(number, signal.SIG_IGN) for number in ignored]
            process = programs.start(*command)
            for number, handler in zip(ignored, before, strict=True):
                signal.signal(number, handler)
            out, _ = process.communicate(timeout=LIMIT_S)
            lines = dict(line.split(maxsplit=1) for line in out.splitlines() if line[:6] in {"SigBlk", "SigIgn"})
            masks = [int(lines[kind], 16) & standard for kind in ("SigBlk:", "SigIgn:")]
            assert masks == [0, sum(1 << (number - 1) for number in ignored)]

    def test_without_limits_it_becomes_the_program(self, programs: Programs) -> None:
        """The pid is the program's."""
        process = programs.start("tiny", "--", "sh", "-c", "echo $$")
        assert process.communicate(timeout=LIMIT_S)[0] == f"{process.pid}\n"

    @pytest.mark.slow
    def test_the_environment_is_in_use_until_it_ends(self, tmp_path: Path) -> None:
        """Removal is refused while a program runs, with limits or without, and works afterwards."""
        own = Programs(tmp_path)
        own.make()
        remove = [ENVMGR, "--root", str(own.root), "remove", str(own.spec)]
        for limits in ([], ["--wall", "1h"]):
            with own.running(*limits, text=UP + "sys.stdin.read(1)") as process:
                refused = subprocess.run(remove, capture_output=True, text=True, check=False)
                assert (refused.returncode, "is in use by" in refused.stderr) == (7, True)
                process.communicate(".", LIMIT_S)
                assert process.returncode == 0
        subprocess.run(remove, check=True, capture_output=True)
        assert not list((own.root / "envs").glob("env-*"))

    def test_a_terminals_interrupt_comes_once(self, programs: Programs) -> None:
        """What the terminal sends to all in front is not sent again by us; the program outlives the first one."""
        text = (
            "import os, signal\nn = 0\ndef count(*_):\n  global n\n  n += 1\n  os.write(1, b'got %d\\n' % n)\n"
            "signal.signal(signal.SIGINT, count)\nos.write(1, b'up\\n')\nos.read(0, 9)\nos.write(1, b'all %d\\n' % n)"
        )
        pid, terminal = os.forkpty()
        if pid == 0:
            os.execve(ENVMGR, ["envmgr", "run", "tiny", "--wall", "60", "--", *BARE, text], programs.environ())
        heard = b""

        def has(words: bytes) -> bool:
            nonlocal heard
            try:
                heard += os.read(terminal, 4096)
            except OSError:
                pytest.fail(f"it has ended: {heard!r}")
            return words in heard

        until(lambda: has(b"up\r\n"))
        os.write(terminal, b"\x03")
        until(lambda: has(b"got 1"))
        os.write(terminal, b"\n")
        until(lambda: has(b"all 1"))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        os.close(terminal)
