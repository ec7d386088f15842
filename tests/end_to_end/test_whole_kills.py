"""SIGKILL to whoever takes part in a build: afterwards every name is absent or whole, and nothing else is left.

What is looked at after each kill stands in `Host.check_recovers`: no process of the build, no held lock, each name
verified, the next create succeeds, and after ``gc`` nothing is in the store but whole environments.
"""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from backends.backend_servers import Server, serve
from demo.packages import fabricate, index
from fakes.processes import reap_orphans
from whole_hosts import (
    LIMIT_S,
    Host,
    all_of,
    ended,
    line_of,
    processes_of_builds,
    write_links,
    write_wheel,
)

from envmgr import client, errors
from envmgr.fsio import Step

pytestmark = pytest.mark.usefixtures("orphanage")

BUILDER = Path(__file__).with_name("dying_builder.py")
TELLING = Path(__file__).with_name("telling.py")
PHASES = ["solve", "fetch", "unpack", "link", "activation", "check", "sync"]
RANDOM_KILLS = 6


def ensure(host: Host, spec: Path, log: Path, number: int) -> None:
    manager = host.manager([sys.executable, "-I", str(BUILDER), str(log), str(number)])
    manager.ensure(client.parse(spec, spec.read_bytes(), str(spec)), retry=True).lease.close()


def test_builder_dies_at_every_durable_step(tmp_path: Path, channel: Path) -> None:
    """At each point that the builder reaches of ARCHIVE, UNPACKED and SYNC, its death is told and leaves no harm."""
    log = tmp_path / "points"
    whole = Host(tmp_path / "whole", {"default_channels": []})
    ensure(whole, whole.spec("lib", channels=[channel.as_uri()]), log, -1)
    points = log.read_text().splitlines()
    assert {point.split()[0] for point in points} == {Step.ARCHIVE.name, Step.UNPACKED.name, Step.SYNC.name}
    for number, point in enumerate(points):
        host = Host(tmp_path / str(number), {"default_channels": []})
        spec = host.spec("lib", channels=[channel.as_uri()])
        log.unlink()
        with pytest.raises(errors.BuilderDied, match="SIGKILL"):
            ensure(host, spec, log, number)
        assert len(log.read_text().splitlines()) >= number + 1, point
        assert host.names() == [], point
        assert host.builds() == [], point
        host.check_recovers(spec)
        reap_orphans()


@pytest.mark.parametrize("phase", PHASES)
def test_builder_is_killed_in_a_phase(host: Host, channel: Path, phase: str) -> None:
    """The caller is told `builder_died`, which is transient, and nothing of the build is left."""
    spec = host.spec("app", channels=[channel.as_uri()])
    answer = host.run(spec, phase, "builder", program=(TELLING,))
    # In the last phases the builder may have answered before the signal reaches it: then the build is whole.
    if answer.code != 0:
        assert "builder_died True" in answer.out
        assert "SIGKILL" in answer.out
        assert host.builds() == []
    else:
        assert phase in PHASES[-4:]
    host.check_recovers(spec)


@pytest.mark.parametrize("phase", PHASES)
def test_parent_is_killed_in_a_phase(host: Host, channel: Path, phase: str) -> None:
    """The builder and all that it started die with the caller; what it leaves is swept by the next create."""
    spec = host.spec("app", channels=[channel.as_uri()])
    answer = host.run(spec, phase, "self", program=(TELLING,))
    assert answer.code == -signal.SIGKILL
    assert answer.out.split()[-1] == phase
    reap_orphans()
    assert len(host.builds()) == 1
    host.check_recovers(spec)
    assert len(host.builds()) == 1


_HANGING = """\
if [ -p "{told}" ]; then
    (setsid /bin/sh -c 'echo here >"{told}"; exec sleep 3600' >/dev/null 2>&1 &)
    sleep 3601
fi
"""


@pytest.mark.parametrize("command", ["create", "gc"])
def test_what_outlives_a_killed_parent_is_ended(host: Host, tmp_path: Path, command: str) -> None:
    """A script's grandchild in a session of its own hangs with the lease; whoever comes next kills it, and sweeps."""
    told = tmp_path / "told"
    os.mkfifo(told)
    ear = os.open(told, os.O_RDONLY | os.O_NONBLOCK)
    host.set(allow_link_scripts=["hanging"])
    directory = tmp_path / "hanging"
    fabricate(directory, "hanging", "1.0", files={"bin/.hanging-post-link.sh": _HANGING.format(told=told)})
    index(directory)
    spec = host.spec("hanging", channels=[directory.as_uri()])
    with all_of([host.start("create", spec)]) as (process,):
        assert select.select([ear], [], [], LIMIT_S)[0]
        os.close(ear)
        builder = min(processes_of_builds(host.root))
        process.kill()
        ended(process)
    wait_for_end(builder)
    orphans = processes_of_builds(host.root)
    try:
        assert orphans
        assert len(host.builds()) == 1
        told.unlink()
        if command == "gc":
            host.ready("gc")
            assert host.builds() == []
        record = host.create(spec, "--retry")
        assert host.builds() == [Path(record["prefix"]).parents[1].name]
        assert processes_of_builds(host.root) == []
    finally:
        for pid in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        reap_orphans()
    host.check_recovers(spec)


def wait_for_end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        assert select.select([fd], [], [], LIMIT_S)[0]
        os.close(fd)


@pytest.mark.parametrize("seed", range(RANDOM_KILLS))
def test_parent_or_builder_is_killed_at_a_random_moment(host: Host, small_channel: Path, seed: int) -> None:
    """The same promise holds at moments that nobody chose: so long after the start, drawn with a fixed seed."""
    spec = host.spec("one", "two", "three", channels=[small_channel.as_uri()])
    draw = random.Random(seed)
    with all_of([host.start("create", spec)]) as (process,):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(draw.uniform(0.1, 0.9))
        victims = processes_of_builds(host.root) if seed % 2 else []
        for pid in victims or [process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ended(process)
    reap_orphans()
    host.check_recovers(spec)


# ------------------------------------------------------------------------------------------------- the pip section


class Held:
    """A server whose first answer to a path with `part` waits until it is released, and says when it was asked."""

    def __init__(self, server: Server, part: str) -> None:
        self.url = server.url
        self.asked, self._tell = os.pipe()
        self._release = threading.Event()
        self._part = part
        server.behaviour.change = self._change

    def _change(self, path: str, data: bytes) -> bytes:
        if self._part in path and not self._release.is_set():
            os.write(self._tell, b".")
            self._release.wait(60)
        return data

    def wait(self) -> None:
        assert select.select([self.asked], [], [], 20)[0], f"nobody asked for {self._part}"

    def release(self) -> None:
        self._release.set()


@contextlib.contextmanager
def held_index(directory: Path, part: str) -> Iterator[Held]:
    """Serve a page of links with ``alpha``, whose answer to `part` is held back."""
    write_wheel(directory / "files", "alpha", "1.0")
    write_links(directory)
    with serve(directory) as server:
        held = Held(server, part)
        try:
            yield held
        finally:
            held.release()


def uv_of(host: Host) -> list[int]:
    found = []
    for pid in processes_of_builds(host.root):
        with contextlib.suppress(OSError):
            if os.path.basename(os.readlink(f"/proc/{pid}/exe")) == "uv":
                found.append(pid)
    return found


@pytest.mark.parametrize("whom", ["uv", "builder", "parent"])
def test_killed_while_uv_downloads(python_host: Host, tmp_path: Path, whom: str) -> None:
    """Whether uv, its builder or the caller is killed while uv waits for a wheel, no process and no build stays."""
    before = set(python_host.names())
    with held_index(tmp_path / "index", ".whl") as index:
        spec = python_host.spec("python", pip=["--no-index", f"--find-links {index.url}/links.html", "alpha"])
        with all_of([python_host.start("create", spec, "--json")]) as (process,):
            index.wait()
            (uv,) = uv_of(python_host)
            builder = int(Path(f"/proc/{uv}/stat").read_text().rpartition(")")[2].split()[1])
            os.kill({"uv": uv, "builder": builder, "parent": process.pid}[whom], signal.SIGKILL)
            answer = ended(process)
        reap_orphans()
        if whom == "parent":
            assert answer.code == -signal.SIGKILL
        else:
            assert answer.code == 1
            assert answer.record["error"]["code"] == {"uv": "build_failed", "builder": "builder_died"}[whom]
            assert python_host.litter() == []
        assert set(python_host.names()) == before
        index.release()
        python_host.check_recovers(spec)
        record = python_host.create(spec)
        assert python_host.run("run", record["name"], "--", "python", "-c", "import alpha").code == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize("is_group", [False, True])
def test_signals_to_create_leave_nothing(
    host: Host, small_channel: Path, number: signal.Signals, code: int, is_group: bool
) -> None:
    """A signal to ``create`` alone, or to its whole group as a terminal sends it, ends the build without a trace."""
    with serve(small_channel) as server:
        held = Held(server, ".conda")
        spec = host.spec("one", channels=[held.url])
        with all_of([host.start("create", spec, start_new_session=True)]) as (process,):
            held.wait()
            (os.killpg if is_group else os.kill)(process.pid, number)
            answer = ended(process)
        assert answer.code == code
        assert "Traceback" not in answer.err
        assert processes_of_builds(host.root) == []
        assert host.builds() == []
        assert host.litter() == []
        held.release()
        host.check_recovers(spec)


def test_a_second_signal_does_not_break_the_way_out(host: Host, small_channel: Path) -> None:
    """Someone who presses Ctrl-C again and again gets the same clean end."""
    with serve(small_channel) as server:
        held = Held(server, ".conda")
        spec = host.spec("one", channels=[held.url])
        with all_of([host.start("create", spec, "--json")]) as (process,):
            line_of(process.stderr, "downloading")
            held.wait()
            with contextlib.suppress(ProcessLookupError):
                while process.poll() is None:
                    os.kill(process.pid, signal.SIGINT)
            answer = ended(process)
    assert answer.code == 130
    assert answer.error["code"] == "cancelled"
    assert processes_of_builds(host.root) == []
    assert host.litter() == []


def test_waiters_go_on_when_the_one_who_builds_is_killed(host: Host, small_channel: Path) -> None:
    """Of two processes that ask for one environment, the second builds it when the first is killed in the middle."""
    with serve(small_channel) as server:
        held = Held(server, ".conda")
        spec = host.spec("one", channels=[held.url])
        with all_of([host.start("create", spec)]) as (first,):
            held.wait()
            with all_of([host.start("create", spec, "--json")]) as (second,):
                told = line_of(second.stderr, "waiting for")
                assert str(first.pid) in told
                first.kill()
                ended(first)
                held.release()
                answer = ended(second)
        assert answer.code == 0, answer.err
        assert answer.record["built"]
        reap_orphans()
        host.check_recovers(spec)


def test_time_limit_ends_the_build(host: Host, small_channel: Path) -> None:
    """``--timeout`` ends a build that hangs, with exit code 8, and leaves nothing."""
    with serve(small_channel) as server:
        held = Held(server, ".conda")
        spec = host.spec("one", channels=[held.url])
        code, error = host.refused("create", spec, "--timeout", "1.5")
        assert (code, error["code"]) == (8, "timed_out")
        assert processes_of_builds(host.root) == []
        assert host.litter() == []
        held.release()
        host.check_recovers(spec)
