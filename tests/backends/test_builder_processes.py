"""The builder as a process: whatever happens to it or its parent, nothing of it stays behind."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from backend_hosts import Host, Limit
from backend_servers import Server, serve
from demo.packages import fabricate, index

from envmgr.backends import families
from envmgr.backends.families import MARK
from envmgr.backends.spawner import Spawner, builder_command
from envmgr.cgroups import Unavailable
from envmgr.errors import BuilderDied, Cancelled, EnvmgrError, NoSpace, TimedOut, Unsatisfiable
from envmgr.events import Event

pytestmark = pytest.mark.slow  # each test is a build and its end; test_builds.py has those that scripts/check runs

ROOT = Path(__file__).resolve().parents[2]
PROMPT_S = 30.0
"""Prompt, on the busiest machine, against the hour that what is ended would take."""

# What the one process runs that has dropped the mark, too; no other test run on this machine has the same.
LOST = f"/bin/sleep 3602.{os.getpid()}"

# Starts one process in the background, one in a session of its own whose parent is gone at once, and one that has also
# dropped the mark; says so when they have done all that.
_SPREADING = f"""\
begun=$PREFIX/begun
mkfifo $begun
sleep 3600 &
(setsid /bin/sh -c "echo >$begun; exec sleep 3601" >/dev/null 2>&1 &)
read _ <$begun
(setsid env -i /bin/sh -c "echo >$begun; exec {LOST}" >/dev/null 2>&1 &)
read _ <$begun
rm $begun
echo spread
"""

# A subreaper whose child starts a relay: each process of it begins a session, starts the next one, and ends.
_RELAY = """\
import ctypes, os, sys
ctypes.CDLL(None).prctl(36, 1)
if os.fork():
    print(flush=True)
    while True:
        os.wait()
for _ in range(200):
    if os.fork():
        os._exit(0)
    os.setsid()
os.execve("/bin/sh", ["sh", "-c", "exec " + sys.argv[1]], {})
"""


def living(build_dir: Path) -> list[str]:
    """Return the commands of all processes of a build: by its mark, or by a file of its that they have open."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            is_marked = f"{MARK}={build_dir}".encode() in (entry / "environ").read_bytes()
            cwd = os.readlink(entry / "cwd")
        except OSError:
            continue
        if command and (is_marked or cwd.startswith(str(build_dir))):
            found.append(command)
    return found


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A channel whose package `endless` never ends its post-link script, and `quick` leaves processes behind."""
    directory = tmp_path_factory.mktemp("scripted") / "chan"
    fabricate(directory, "endless", "1.0", files={"bin/.endless-post-link.sh": _SPREADING + "sleep 3600\n"})
    fabricate(directory, "quick", "1.0", files={"bin/.quick-post-link.sh": _SPREADING})
    fabricate(directory, "telling", "1.0", files={"bin/.telling-post-link.sh": "env | sort > $PREFIX/environ\n"})
    index(directory)
    return directory.as_uri()


@pytest.fixture
def stalled(channel: Path) -> Iterator[Server]:
    """A server that never finishes the package `tool`."""
    with serve(channel) as server:
        server.behaviour.stall = "tool-1.0"
        yield server


def when_spread(act: Callable[[], None]) -> Callable[[Event], None]:
    """Return a reporter that acts once the endless script is under way."""

    def report(event: Event) -> None:
        if event.kind == "log" and event.message == "spread":
            act()

    return report


def builder_pid(build_dir: Path) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
                cwd = os.readlink(entry / "cwd")
            except OSError:
                continue
            if b"builder/__main__.py" in command and cwd == str(build_dir):
                return int(entry.name)
    raise AssertionError("no builder")


def test_a_killed_builder_leaves_no_process(host: Host, scripted: str) -> None:
    """SIGKILL from outside: the error says so, and whatever the builder had started is gone when it is raised."""
    request = host.request(scripted, conda=("endless",), allow_link_scripts=None)
    build_dir = Path(request.build_dir)

    def kill() -> None:
        assert len(living(build_dir)) >= 5
        os.kill(builder_pid(build_dir), signal.SIGKILL)

    with pytest.raises(BuilderDied, match="killed by SIGKILL") as caught:
        host.run(request, on_event=when_spread(kill))
    assert "spread" in caught.value.message
    # The one that has dropped the mark, too, lost its parent, and then the builder, is out of reach: see `families`.
    assert [command for command in living(build_dir) if not command.endswith(LOST)] == []
    for pid in lost():
        os.kill(pid, signal.SIGKILL)
    while lost():
        pass


def lost() -> list[int]:
    """Return the living processes that have dropped the mark."""
    found = subprocess.run(["pgrep", "-f", f"{re.escape(LOST)}$"], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def test_a_relay_does_not_outrun_the_search() -> None:
    """Processes that each start the next one and end, while /proc is read, are not taken for gone."""
    with subprocess.Popen([sys.executable, "-c", _RELAY, LOST], stdout=subprocess.PIPE) as stand_in:
        assert stand_in.stdout is not None
        stand_in.stdout.readline()
        families.end(stand_in.pid, "no mark", lambda _line: None)
    assert lost() == []


def test_a_builder_stays_until_it_is_ended(host: Host, scripted: str, tmp_path: Path) -> None:
    """Its orphans are found through it, so a builder never ends by itself while somebody listens, good build or not."""
    told = tmp_path / "told"
    spawner = wrapped(
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "exit = os._exit\n"
        f"os._exit = lambda status: (open({str(told)!r}, 'w').close(), exit(status))\n"
        "from envmgr.builder import process\n"
        "process.main(sys.argv[1:])",
        tmp_path,
    )
    assert host.run(host.request(scripted, conda=("quick",), allow_link_scripts=None), spawner=spawner).result
    with pytest.raises(Unsatisfiable):
        host.run(host.request(scripted, conda=("none-such",)), spawner=spawner)
    assert not told.exists()
    assert lost() == []


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimedOut("the time is up"), TimedOut),
        (Cancelled("no more"), Cancelled),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_an_end_by_the_caller_leaves_no_process(
    host: Host, scripted: str, error: BaseException, kind: type[BaseException]
) -> None:
    """Time limit, cancellation, Ctrl-C: raised promptly, and not one of the builder's processes lives, mark or not."""
    limit = Limit()
    request = host.request(scripted, conda=("endless",), allow_link_scripts=None)
    raised_at = []

    def end() -> None:
        limit.error = error
        raised_at.append(time.monotonic())

    with pytest.raises(kind):
        host.run(request, limit=limit, on_event=when_spread(end))
    assert time.monotonic() - raised_at[0] < PROMPT_S
    assert living(Path(request.build_dir)) == []
    assert lost() == []


def test_an_error_of_the_reporter_ends_the_build(host: Host, scripted: str) -> None:
    """What the caller's own function raises comes out, and no process stays."""
    request = host.request(scripted, conda=("endless",), allow_link_scripts=None)

    def fail() -> None:
        raise RuntimeError("the reporter's own")

    with pytest.raises(RuntimeError, match="the reporter's own"):
        host.run(request, on_event=when_spread(fail))
    assert living(Path(request.build_dir)) == []


def test_what_a_script_leaves_running_is_ended_with_a_good_build(host: Host, scripted: str) -> None:
    """A build that succeeds leaves no process, either."""
    built = host.build(scripted, conda=("quick",), allow_link_scripts=None)
    assert built.result is not None
    assert living(built.build_dir) == []
    assert lost() == []


def test_a_stalled_server_and_a_deadline(host: Host, stalled: Server) -> None:
    """The deadline ends a build in the middle of a download that would wait much longer."""
    request = host.request(stalled.url, conda=("tool",), timeout_s=3600.0)
    began = time.monotonic()
    with pytest.raises(TimedOut):
        host.run(request, limit=Limit(2.0))
    assert time.monotonic() - began < PROMPT_S
    assert living(Path(request.build_dir)) == []


_PARENT = """\
import sys
from pathlib import Path
from backend_hosts import Host
host = Host(Path(sys.argv[1]))
host.build(sys.argv[2], conda=("tool",))
"""


def run_parent(code: str, *arguments: str) -> subprocess.Popen[str]:
    places = [ROOT, ROOT / "scripts", Path(__file__).parent]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *arguments], env=environ, stdout=subprocess.PIPE, text=True
    )


def test_a_builder_dies_with_its_parent(stalled: Server, tmp_path: Path) -> None:
    """SIGKILL of the parent ends the builder, though nobody is left to tell it."""
    build_dir = tmp_path / "store/builds/b-1"
    with run_parent(_PARENT, str(tmp_path / "store"), stalled.url) as parent:
        while not stalled.asked_for("tool-1.0-0.conda"):
            time.sleep(0.01)
        assert living(build_dir)
        parent.kill()
    until = time.monotonic() + PROMPT_S
    while living(build_dir) and time.monotonic() < until:
        time.sleep(0.02)
    assert living(build_dir) == []


_FORKING = """\
import os, sys, warnings
from pathlib import Path
from backend_hosts import Host
host = Host(Path(sys.argv[1]))
host.build(sys.argv[2], conda=("tool",))
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    child = os.fork()
if child == 0:
    built = Host(Path(sys.argv[1]) / "child").build(sys.argv[2], conda=("tool",))
    os._exit(0 if built.result.packages == 1 else 1)
_, status = os.waitpid(child, 0)
host.build(sys.argv[2], conda=("tool",))
print(os.waitstatus_to_exitcode(status), [str(warning.message) for warning in told])
"""


def test_a_forked_process_builds(channel: Path, tmp_path: Path) -> None:
    """A process that has built and then forked: both can build on, and Python does not warn of threads at the fork."""
    with run_parent(_FORKING, str(tmp_path / "store"), channel.as_uri()) as parent:
        out, _ = parent.communicate(timeout=60)
    assert (parent.returncode, out) == (0, "0 []\n")


def test_many_threads_build_at_once_and_nothing_leaks(host: Host, channel: Path) -> None:
    """Builds from several threads, then none of their descriptors and children is left in this process."""
    host.build(channel.as_uri(), conda=("tool",))
    before = _held()
    requests = [host.request(channel.as_uri(), conda=("tool",)) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert all(built.result is not None for built in pool.map(host.run, requests))
    assert _held() == before
    assert "envmgr-forker" not in [thread.name for thread in threading.enumerate()]


def _held() -> tuple[list[str], list[int]]:
    """Return this process's descriptors and children, ended ones included; the tests' servers are among them."""
    return sorted(os.listdir("/proc/self/fd")), sorted(child.pid for child in psutil.Process().children())


def test_no_variable_of_the_caller_gets_in(host: Host, scripted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A builder's tools see a minimal environment, whatever the caller's is."""
    for name in ("SECRET_TOKEN", "PIP_INDEX_URL", "CONDA_PREFIX", "HTTPS_PROXY", "LD_LIBRARY_PATH"):
        monkeypatch.setenv(name, "/the/callers/own")
    built = host.build(scripted, conda=("telling",), allow_link_scripts=None)
    seen = dict(line.split("=", 1) for line in (built.prefix / "environ").read_text().splitlines())
    assert "/the/callers/own" not in seen.values()
    assert set(seen) <= {
        "PATH", "LANG", "HOME", "PREFIX", "PKG_NAME", "PKG_VERSION", "PKG_BUILDNUM", MARK,
        "PWD", "_", "SHLVL", "OLDPWD",
    }  # fmt: skip


def wrapped(code: str, tmp_path: Path, **options: Any) -> Spawner:
    """Return a spawner whose builder runs `code` first, with the builder's own arguments in `sys.argv`."""
    script = tmp_path / "wrapper.py"
    script.write_text(f"import os, runpy, sys\n{code}\n")
    return Spawner([sys.executable, str(script)], **options)


def test_a_builder_that_ends_without_an_answer(host: Host, channel: Path, tmp_path: Path) -> None:
    """Its status and its last words are in the error."""
    spawner = wrapped("print('last words', flush=True); os._exit(7)", tmp_path)
    with pytest.raises(BuilderDied, match=r"ended with status 7 without an answer.*last words") as caught:
        host.run(host.request(channel.as_uri(), conda=("lib",)), spawner=spawner)
    assert caught.value.is_transient


def test_a_builder_that_used_too_much_memory(host: Host, channel: Path, tmp_path: Path) -> None:
    """When the kernel says that it killed for memory, the error names the setting; here a directory is the kernel."""
    base = tmp_path / "cgroup"
    base.mkdir()
    code = f"""\
import pathlib
def is_taken_in():
    return any(path.read_text() == str(os.getpid()) for path in pathlib.Path({str(base)!r}).glob("*/cgroup.procs"))
while not is_taken_in():
    pass
(group,) = pathlib.Path({str(base)!r}).iterdir()
assert group.joinpath("memory.max").read_text() == "2097152"
group.joinpath("memory.events").write_text("low 0\\noom 1\\noom_kill 1\\n")
os.kill(os.getpid(), 9)
"""
    request = host.request(channel.as_uri(), conda=("lib",), memory_bytes=2 << 20)
    with pytest.raises(BuilderDied, match="more than 2 MiB of memory") as caught:
        host.run(request, spawner=wrapped(code, tmp_path, find_cgroup=lambda: base))
    assert "builder_memory_bytes" in (caught.value.hint or "")


def test_the_cgroup_is_arranged_before_there_is_a_builder(host: Host, channel: Path, tmp_path: Path) -> None:
    """A builder in our cgroup would be another process there, for which nothing may be arranged; nor need it always."""
    before = set(psutil.Process().children())
    found: list[set[psutil.Process]] = []

    def find() -> Path:
        found.append(set(psutil.Process().children()) - before)
        raise Unavailable("it was only asked")

    for memory_bytes in (0, 2 << 20):
        request = host.request(channel.as_uri(), conda=("lib",), memory_bytes=memory_bytes)
        with pytest.raises(BuilderDied):
            host.run(request, spawner=wrapped("os._exit(7)", tmp_path, find_cgroup=find))
    assert found == [set()]


def test_no_program_of_a_build_waits_for_the_disk() -> None:
    """Where the kernel has seccomp, fsync and fdatasync succeed, also of what is no file, here and in children."""
    code = (
        "import os, subprocess, sys\n"
        "from envmgr.builder import deferred_sync\n"
        "if not deferred_sync.defer(): sys.exit(77)\n"
        "os.fsync(999); os.fdatasync(999)\n"
        "subprocess.run([sys.executable, '-I', '-c', 'import os; os.fsync(998)'], check=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=PROMPT_S)
    if done.returncode == 77:
        pytest.skip("the kernel has no seccomp filters for this machine")
    assert done.returncode == 0


@pytest.mark.parametrize("code", ["os.write(int(sys.argv[1]), b'no json\\n')", "os.write(int(sys.argv[1]), b'half')"])
def test_a_builder_that_talks_nonsense(host: Host, channel: Path, tmp_path: Path, code: str) -> None:
    """What is no answer is not taken for one."""
    with pytest.raises(BuilderDied):
        host.run(host.request(channel.as_uri(), conda=("lib",)), spawner=wrapped(code, tmp_path))


def test_a_builder_that_cannot_be_started(host: Host, channel: Path, tmp_path: Path) -> None:
    """A missing interpreter is named."""
    with pytest.raises(BuilderDied, match="none-such"):
        host.run(host.request(channel.as_uri(), conda=("lib",)), spawner=Spawner([str(tmp_path / "none-such")]))


def test_a_log_that_cannot_be_opened(host: Host, channel: Path) -> None:
    """What goes wrong before a builder is even ordered is told, instead of waiting for one."""
    request = host.request(channel.as_uri(), conda=("lib",))
    Path(request.build_dir, "build.log").mkdir()
    with pytest.raises(BuilderDied, match=r"build\.log"):
        host.run(request)


def test_what_nobody_foresaw_is_told_in_the_log_only(host: Host, channel: Path, tmp_path: Path) -> None:
    """An exception that is not ours has the code ``unexpected``; its text stays in the log."""
    code = (
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from envmgr.builder import process, stages\n"
        "def fail(*_, **__): raise ZeroDivisionError('only for the log')\n"
        "stages.run = fail\n"
        "process.main(sys.argv[1:])"
    )
    with pytest.raises(EnvmgrError) as caught:
        host.run(host.request(channel.as_uri(), conda=("lib",)), spawner=wrapped(code, tmp_path))
    assert caught.value.code == "unexpected"
    assert "only for the log" not in str(caught.value)
    assert host.last is not None
    assert "ZeroDivisionError: only for the log" in host.last.log


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_or_quota_is_no_space(host: Host, channel: Path, tmp_path: Path, number: int) -> None:
    """Wherever a build meets it, the error is `NoSpace` and names the file."""
    code = (
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from envmgr.builder import process, stages\n"
        f"def fail(*_, **__): raise OSError({number}, 'full', '/some/file')\n"
        "stages.run = fail\n"
        "process.main(sys.argv[1:])"
    )
    with pytest.raises(NoSpace, match="/some/file"):
        host.run(host.request(channel.as_uri(), conda=("lib",)), spawner=wrapped(code, tmp_path))


def test_the_parent_imports_neither_rattler_nor_conda_lock() -> None:
    """What the parent needs of a build costs it no heavy import."""
    code = (
        "import sys; import envmgr.backends.spawner;"
        "print(sorted({'rattler', 'conda_lock', 'asyncio', 'yaml'} & set(sys.modules)))"
    )
    with run_parent(code) as parent:
        assert parent.communicate(timeout=30)[0] == "[]\n"


def test_the_default_command_is_isolated() -> None:
    """Neither the user's site nor the working directory nor a variable can change what a builder imports."""
    command = builder_command()
    assert command[:2] == [sys.executable, "-I"]
    assert Path(command[2]).is_file()
