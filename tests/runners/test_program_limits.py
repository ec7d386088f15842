"""Limits of programs: what keeps them, what is told, and that nothing is left running."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.processes import Forked, no_process_left
from program_store import BARE, ENVMGR, LIMIT_S, Programs, is_gone, until

import envmgr
from envmgr import cgroups
from envmgr.errors import Busy, EnvmgrError, LimitExceeded, PermissionRefused, UnsuitableFilesystem
from envmgr.runners.program import slots
from envmgr.runners.program.limits import Finished
from envmgr.runners.program.running import Limited
from envmgr.runners.program.supervising import Supervised

MIB = 1 << 20
DAEMON = """
import os, signal, sys, time
def daemon():  # a grandchild in a session of its own, whose parent has ended; "bare" without an environment
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            with open(sys.argv[1], "w") as file:
                file.write(str(os.getpid()))
            os.rename(sys.argv[1], sys.argv[1] + ".pid")
            os.execve("/bin/sleep", ["sleep", "300"], {} if sys.argv[2:] else os.environ)
        os._exit(0)
    os.wait()
    while not os.path.exists(sys.argv[1] + ".pid"):
        time.sleep(0.01)
daemon()
"""


def daemon_pid(path: Path) -> int:
    """Return the pid that the daemon of `DAEMON` has written, when it has."""
    noted = path.with_name(f"{path.name}.pid")
    until(noted.exists)
    return int(noted.read_text())


class TestMemory:
    ONE = "x = b'x' * (300 << 20); import time; time.sleep(60)"
    THREE = "import os, time\nfor _ in range(3): os.fork() or [b'x' * (50 << 20), time.sleep(60)]\ntime.sleep(60)"

    @pytest.mark.parametrize("text", [ONE, THREE], ids=["one process", "three children in sum"])
    def test_over_the_limit(self, programs: Programs, text: str) -> None:
        """What the tree uses together counts; the error says which limit, its value, what was used, and who saw it."""
        with no_process_left(), pytest.raises(LimitExceeded) as caught:
            envmgr.run("tiny", [*BARE, text], root=programs.root, limits=envmgr.Limits(memory_bytes=100 * MIB))
        fields = caught.value.fields
        assert (fields["limit"], fields["value"]) == ("memory_bytes", 100 * MIB)
        assert isinstance(fields["used"], int)
        assert fields["used"] > 100 * MIB
        assert fields["mechanism"] in {"watched", "cgroup"}
        assert "100 MiB" in caught.value.message

    def test_a_limit_of_a_few_bytes_is_told_as_such(self, programs: Programs) -> None:
        """A limit far too small, such as one whose unit was forgotten, is said in the unit that fits."""
        with pytest.raises(LimitExceeded, match="used more than 2 B of memory"):
            envmgr.run("tiny", [*BARE, self.ONE], root=programs.root, limits=envmgr.Limits(memory_bytes=2))

    def test_what_forks_share_counts_once(self, programs: Programs) -> None:
        """Three children that share their parent's pages use no more than it does."""
        text = (
            "import os, time\nx = b'x' * (60 << 20)\n"
            "for _ in range(3):\n  if os.fork() == 0: time.sleep(1); os._exit(0)\n"
            "for _ in range(3): os.wait()"
        )
        done = envmgr.run("tiny", [*BARE, text], root=programs.root, limits=envmgr.Limits(memory_bytes=120 * MIB))
        assert done.status == 0
        assert done.peak_memory_bytes is not None
        assert 60 * MIB < done.peak_memory_bytes <= 120 * MIB

    def test_shared_memory_counts(self, programs: Programs) -> None:
        """Pages of a shared mapping are used, too; a file that is only mapped is not."""
        text = "import mmap, time\nx = mmap.mmap(-1, 200 << 20)\nx.write(b'x' * (200 << 20))\ntime.sleep(60)"
        with pytest.raises(LimitExceeded):
            envmgr.run("tiny", [*BARE, text], root=programs.root, limits=envmgr.Limits(memory_bytes=100 * MIB))

    def test_on_the_command_line(self, programs: Programs) -> None:
        """One sentence on standard error and exit code 16; with --json the record, on standard output."""
        status, out, err = programs.run("tiny", "--memory", "100MiB", "--", *BARE, self.ONE)
        assert (status, out) == (16, "")
        assert err.startswith("envmgr: the program and what it started used more than 100 MiB of memory")
        status, out, err = programs.run("tiny", "--memory", "100MiB", "--json", "--", *BARE, self.ONE)
        error = json.loads(out)["error"]
        assert (status, error["code"], error["fields"]["limit"], err) == (16, "limit_exceeded", "memory_bytes", "")


class TestWall:
    def test_the_program_may_save_what_it_has(self, programs: Programs, tmp_path: Path) -> None:
        """It gets SIGTERM first; ended by itself then, with whatever status, it was over the limit all the same."""
        saved = tmp_path / "saved"
        text = (
            "import signal, sys, time\n"
            f"def save(*_): open({str(saved)!r}, 'w').close(); sys.exit(0)\n"
            "signal.signal(signal.SIGTERM, save)\ntime.sleep(60)"
        )
        with no_process_left(), pytest.raises(LimitExceeded) as caught:
            envmgr.run("tiny", [*BARE, text], root=programs.root, limits=envmgr.Limits(wall_s=1.5))
        assert (caught.value.fields["limit"], caught.value.fields["mechanism"]) == ("wall_s", "clock")
        assert saved.exists()

    def test_on_the_command_line(self, programs: Programs) -> None:
        """Exit code 16, and the sentence tells the time."""
        status, _, err = programs.run("tiny", "--wall", "0.2s", "--", "sleep", "60")
        assert (status, "it may run for 0.2 s" in err) == (16, True)


class TestCores:
    TEXT = (
        "import os; print(len(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS'], os.environ['PYTHON_CPU_COUNT'])"
    )

    def test_cpus_and_threads(self, programs: Programs) -> None:
        """The tree has so many CPUs, and libraries are told so, unless the caller has told them already."""
        process = programs.start("tiny", "--cores", "1", "--", *BARE, self.TEXT)
        assert process.communicate(timeout=LIMIT_S)[0] in {"1 1 1\n", f"{os.cpu_count()} 1 1\n"}
        environ = {**programs.environ(), "OMP_NUM_THREADS": "7"}
        process = programs.start("tiny", "--cores", "1", "--", *BARE, self.TEXT, env=environ)
        assert process.communicate(timeout=LIMIT_S)[0].endswith(" 7 1\n")

    def test_each_gets_the_cpus_of_the_fewest(self, tmp_path: Path) -> None:
        """Programs are spread: none gets a CPU twice as long as another has none; what ends gives its promise back."""
        allowed = sorted(os.sched_getaffinity(0))
        if len(allowed) == 1:
            pytest.skip("this process may use one CPU only")
        first, second = ([slots.cpus(tmp_path, 1) for _ in allowed] for _ in range(2))
        for programs in (first, second):
            assert sorted(cpu for cpus, _ in programs for cpu in cpus) == allowed
        assert slots.cpus(tmp_path, len(allowed) + 1) == (allowed, [])
        cpus, (held,) = first.pop()
        os.close(held)
        again = slots.cpus(tmp_path, 1)
        assert again[0] == cpus
        for _, (held,) in (*first, *second, again):
            os.close(held)


class TestInstances:
    TEXT = "import sys\nprint('up', flush=True)\nsys.stdin.read(1)"

    def test_no_more_than_allowed(self, programs: Programs) -> None:
        """The third of two is refused, waits for a place if it is told to, and gets the one of a killed supervisor."""
        words = ("--instances", "2")
        with programs.running(*words, text=self.TEXT) as first, programs.running(*words, text=self.TEXT):
            with pytest.raises(Busy) as caught:
                envmgr.run("tiny", ["true"], root=programs.root, limits=envmgr.Limits(instances=2))
            assert caught.value.is_transient
            status, _, err = programs.run("tiny", *words, "--", "true")
            assert (status, "2 instances may run on this host" in err) == (9, True)
            waiting = programs.start("tiny", *words, "--wait", "60s", "--", "echo", "mine")
            assert waiting.stderr is not None
            assert "waiting for one of 2 instances" in waiting.stderr.readline()
            first.kill()
            out, _ = waiting.communicate(timeout=LIMIT_S)
            assert (waiting.returncode, out) == (0, "mine\n")
            status, _, _ = programs.run("tiny", "--instances", "3", "--", "true")
            assert status == 0

    def test_a_place_is_free_when_its_program_ends(self, programs: Programs) -> None:
        """One after the other has the only place."""
        for _ in range(2):
            done = envmgr.run("tiny", ["true"], root=programs.root, limits=envmgr.Limits(instances=1))
            assert done.mechanisms == {"instances": "locks"}

    def test_a_place_is_free_though_the_caller_was_forked_meanwhile(self, programs: Programs) -> None:
        """A worker that the caller forks while a program runs has the descriptors, too, and keeps no place by them."""
        with envmgr.ensure("tiny", root=programs.root) as environment:
            with Limited(environment, envmgr.Limits(instances=1)) as limited:
                program = limited.start(["true"])
                worker = Forked(signal.pause)
                program.wait()
                assert limited.finished().status == 0
            try:
                envmgr.run("tiny", ["true"], root=programs.root, limits=envmgr.Limits(instances=1))
            finally:
                worker.abandon()

    def test_wait_without_instances(self, programs: Programs) -> None:
        """There is nothing to wait for."""
        assert programs.run("tiny", "--wait", "1s", "--", "true")[0] == 2

    def test_what_others_put_there(self, tmp_path: Path) -> None:
        """No link is followed, and what is no file of its own is not taken for a lock; the error names it."""
        target = tmp_path / "target"
        target.touch()
        path = tmp_path / "envmgr-x-0"
        for put in (
            lambda: path.symlink_to(target), lambda: os.link(target, path), lambda: os.mkfifo(path), path.mkdir
        ):  # fmt: skip
            put()
            with pytest.raises(PermissionRefused, match="envmgr-x-0"):
                slots.instance([path], wait_s=0, on_wait=lambda: None)
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()

    def test_what_others_put_there_is_one_place_fewer(self, tmp_path: Path) -> None:
        """One such file stops nobody while there are other places, and lets nobody have more; `Busy` names it."""
        paths = slots.instance_paths(tmp_path, "x", 3)
        paths[0].mkdir()
        held = [slots.instance(paths, wait_s=0, on_wait=lambda: None) for _ in range(2)]
        with pytest.raises(Busy, match=r"3 instances may .* and 2 still run; .*/envmgr-x-0 is not a lock"):
            slots.instance(paths, wait_s=0, on_wait=lambda: None)
        for fd in held:
            os.close(fd)
        assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths}

    def test_anybody_may_use_a_lock(self, tmp_path: Path) -> None:
        """The file is for reading only, whatever the umask: nothing is written into it."""
        before = os.umask(0o077)
        try:
            os.close(slots.instance([tmp_path / "envmgr-x-0"], wait_s=0, on_wait=lambda: None))
        finally:
            os.umask(before)
        assert (tmp_path / "envmgr-x-0").stat().st_mode & 0o777 == 0o444

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
    def test_the_instances_of_a_host_are_of_all_its_users(self, request: pytest.FixtureRequest) -> None:
        """Whoever made the lock, everybody sees that it is taken, and takes it when it is free."""
        paths = slots.instance_paths(slots.directory(), slots.key("test", str(os.getpid())), 1)
        request.addfinalizer(paths[0].unlink)

        def take_as_nobody() -> None:
            os.setuid(65534)
            os.close(slots.instance(paths, wait_s=0, on_wait=lambda: None))

        Forked(take_as_nobody).result()
        assert paths[0].stat().st_uid == 65534
        held = slots.instance(paths, wait_s=0, on_wait=lambda: None)
        with pytest.raises(Busy):
            Forked(take_as_nobody).result()
        os.close(held)
        Forked(take_as_nobody).result()

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
    def test_nobody_sees_half_a_lock(self, request: pytest.FixtureRequest) -> None:
        """Who comes while another user, whose umask is strict, makes a lock, gets it or finds it taken; no error."""
        paths = slots.instance_paths(slots.directory(), slots.key("half", str(os.getpid())), 300)
        request.addfinalizer(lambda: [path.unlink(missing_ok=True) for path in paths])

        def take_each(uid: int) -> None:
            os.umask(0o077)
            os.setuid(uid)
            for path in paths:
                with contextlib.suppress(Busy):
                    os.close(slots.instance([path], wait_s=0, on_wait=lambda: None))

        for both in [Forked(functools.partial(take_each, uid)) for uid in (0, 65534)]:
            both.result()

    def test_where_the_locks_are(self, tmp_path: Path) -> None:
        """A directory that not everybody shares is passed over; without any, the limit cannot be kept."""
        assert slots.directory([tmp_path, *slots.PLACES]) in slots.PLACES
        with pytest.raises(UnsuitableFilesystem):
            slots.directory([tmp_path])


class TestNothingIsLeft:
    def test_a_daemon_of_the_program(self, programs: Programs, tmp_path: Path) -> None:
        """Who left the program's session, lost his parent and ignores SIGTERM is gone when the program has ended."""
        note = tmp_path / "note"
        with no_process_left():
            done = envmgr.run(
                "tiny", [*BARE, f"{DAEMON}sys.exit(4)", str(note), "bare"], root=programs.root, limits=envmgr.Limits()
            )
            assert done.status == 4
            assert is_gone(daemon_pid(note))

    @contextlib.contextmanager
    def started(self, programs: Programs, note: Path) -> Iterator[subprocess.Popen[str]]:
        text = f"{DAEMON}print(os.getppid(), os.getpid(), flush=True)\ntime.sleep(300)"
        process = programs.start("tiny", "--wall", "1h", "--", *BARE, text, str(note), "bare")
        try:
            yield process
        finally:
            process.kill()
            process.communicate(timeout=LIMIT_S)

    @pytest.mark.parametrize("who", ["command", "supervisor", "program"])
    def test_whoever_is_killed(self, programs: Programs, tmp_path: Path, who: str) -> None:
        """After SIGKILL of any one of the three, the program and its daemon end, and it is told what happened."""
        with no_process_left(), self.started(programs, tmp_path / "note") as process:
            assert process.stdout is not None
            supervisor, program = map(int, process.stdout.readline().split())
            daemon = daemon_pid(tmp_path / "note")
            os.kill({"command": process.pid, "supervisor": supervisor, "program": program}[who], signal.SIGKILL)
            until(lambda: is_gone(program) and is_gone(daemon))
            _, err = process.communicate(timeout=LIMIT_S)
            if who == "supervisor":
                assert (process.returncode, "its supervisor was" in err) == (1, True)
            else:
                assert process.returncode == -signal.SIGKILL

    def test_a_caller_with_many_descriptors(self, programs: Programs) -> None:
        """A driver or a server has more than a thousand open files; the end of a program is seen all the same."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
        opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
        try:
            assert envmgr.run("tiny", ["true"], root=programs.root, limits=envmgr.Limits()).status == 0
        finally:
            for fd in opened:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def test_what_was_there_before_stays(self, programs: Programs) -> None:
        """A script that becomes ``envmgr run`` keeps the children that it had; an ignored SIGCHLD is no trouble."""
        script = "trap '' CHLD; sleep 300 >&- & echo $!; exec \"$@\""
        for text, status in (("import sys; sys.exit(3)", 3), ("import os; os.kill(os.getppid(), 9)", 1)):
            words = [ENVMGR, "run", "tiny", "--wall", "1h", "--", *BARE, text]
            done = subprocess.run(
                ["sh", "-c", script, "sh", *words], env=programs.environ(), stdout=subprocess.PIPE, timeout=LIMIT_S,
                check=False,
            )  # fmt: skip
            assert done.returncode == status
            assert not is_gone(int(done.stdout))
            os.kill(int(done.stdout), signal.SIGKILL)

    def test_the_supervisor_of_a_library_call(self, programs: Programs, tmp_path: Path) -> None:
        """A program cannot be the parent of what is left there; it is found by its mark, and the call fails."""
        note = tmp_path / "note"
        text = f"{DAEMON}os.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(300)"
        with no_process_left():
            with pytest.raises(EnvmgrError, match="its supervisor was"):
                envmgr.run("tiny", [*BARE, text, str(note)], root=programs.root, limits=envmgr.Limits())
            assert is_gone(daemon_pid(note))

    def test_the_caller_of_the_library(self, programs: Programs, tmp_path: Path) -> None:
        """When the program that called is killed, all of the run ends."""
        note = tmp_path / "note"
        text = f"{DAEMON}print(os.getpid(), flush=True)\ntime.sleep(300)"
        caller = (
            "import envmgr, sys\nenvmgr.run('tiny', sys.argv[2:], root=sys.argv[1], limits=envmgr.Limits(wall_s=3600))"
        )
        words = [sys.executable, "-c", caller, programs.root, *BARE, text, note]
        with no_process_left(), subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            program = int(process.stdout.readline())
            process.kill()
            until(lambda: is_gone(program) and is_gone(daemon_pid(note)))


class TestCgroup:
    """A directory stands for the kernel's: how a group is used is seen there, not that the kernel keeps it."""

    def run(
        self, programs: Programs, base: Path, limits: envmgr.Limits, text: str
    ) -> tuple[Finished, list[object], dict[str, str]]:
        asked: list[object] = []

        def find(*, controllers: object) -> Path:
            asked.append(controllers)
            return base

        with (
            envmgr.ensure("tiny", root=programs.root) as environment,
            Limited(environment, limits, find_cgroup=find) as limited,
        ):
            (group,) = base.iterdir()
            (group / "cgroup.procs").touch()
            program: Supervised = limited.start([*BARE, text, str(group)])
            program.wait()
            return limited.finished(), asked, {path.name: path.read_text() for path in group.iterdir()}

    def test_the_program_goes_in_by_itself(self, programs: Programs, tmp_path: Path) -> None:
        """Memory and CPUs are the kernel's business then, from the program's first instruction on; the peak is its."""
        text = "import os, sys; open(sys.argv[1] + '/memory.peak', 'w').write('4711'); print(os.sched_getaffinity(0))"
        done, asked, group = self.run(programs, tmp_path, envmgr.Limits(memory_bytes=MIB, cores=1), text)
        assert asked == [["memory", "cpu"]]
        assert (group["cgroup.procs"], group["memory.max"], group["cpu.max"]) == ("0", str(MIB), "100000 100000")
        assert done.mechanisms == {"memory_bytes": "cgroup", "cores": "cgroup"}
        assert done.peak_memory_bytes == 4711

    def test_the_kernel_has_killed_it(self, programs: Programs, tmp_path: Path) -> None:
        """What the group's events tell is the reason."""
        text = (
            "import os, sys; open(sys.argv[1] + '/memory.events', 'w').write('oom_kill 1\\n'); os.kill(os.getpid(), 9)"
        )
        with pytest.raises(LimitExceeded) as caught:
            self.run(programs, tmp_path, envmgr.Limits(memory_bytes=MIB), text)
        assert caught.value.fields["mechanism"] == "cgroup"
        assert caught.value.fields["why_no_cgroup"] is None

    def test_without_one_it_is_told_why(self, programs: Programs) -> None:
        """What watches instead is in the result, and why it has to, in the error."""

        def find(*, controllers: object) -> Path:
            raise cgroups.Unavailable("nothing is delegated")

        limits = envmgr.Limits(memory_bytes=50 * MIB, cores=1)
        with (
            envmgr.ensure("tiny", root=programs.root) as environment,
            Limited(environment, limits, find_cgroup=find) as limited,
        ):
            assert limited.mechanisms == {"memory_bytes": "watched", "cores": "affinity"}
            limited.start([*BARE, TestMemory.ONE]).wait()
            with pytest.raises(LimitExceeded) as caught:
                limited.finished()
        assert caught.value.fields["why_no_cgroup"] == "nothing is delegated"

    def test_the_kernel_bounds_a_program(self, programs: Programs) -> None:
        """Where this process may make groups with memory and CPUs, one keeps a program's limits."""
        try:
            cgroups.base(controllers=("memory", "cpu"))
        except cgroups.Unavailable as error:
            pytest.skip(f"no memory and cpu controllers of cgroup v2 to arrange: {error}")
        with pytest.raises(LimitExceeded) as caught:
            envmgr.run(
                "tiny", [*BARE, TestMemory.ONE], root=programs.root,
                limits=envmgr.Limits(memory_bytes=64 * MIB, cores=1),
            )  # fmt: skip
        assert caught.value.fields["mechanism"] == "cgroup"
