"""Running jobs: nothing that happens to a name changes what a process of its environment imports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from demo.packages import index
from fakes.processes import reap_orphans
from whole_hosts import SEARCH, Host, Job, payload

import envmgr

VERSION = "__import__('importlib').import_module('payload.{}').where()"
EARLY, LATE = VERSION.format("early"), VERSION.format("late")
CHILD = "__import__('multiprocessing').get_context('{}').Pool(1).apply(__import__('payload.early').early.where)"


@pytest.fixture
def own_channel(tmp_path: Path) -> Path:
    """A channel of this test's own with ``payload`` 1.0."""
    channel = tmp_path / "channel"
    payload(channel, "1.0")
    return channel


@pytest.fixture
def spec(python_host: Host, own_channel: Path, demo_channel: str) -> Path:
    """The spec of an environment with Python and the newest ``payload``."""
    return python_host.spec("python", "payload", channels=[own_channel.as_uri(), demo_channel])


def by_path(host: Host, name: str) -> list[str | Path]:
    return [host.root / "envs" / name / "bin" / "python", "-c", SEARCH]


def by_run(host: Host, name: str) -> list[str | Path]:
    return [sys.executable, "-m", "envmgr", "--root", host.root, "run", name, "--", "python", "-c", SEARCH]


def by_launcher(host: Host, name: str) -> list[str | Path]:
    return [Path(sys.executable).with_name("envmgr-python"), f"--envmgr-env={name}", "-c", SEARCH]


STARTS = [by_path, by_run, by_launcher]
Start = Callable[[Host, str], "list[str | Path]"]


def leave(host: Host, name: str) -> None:
    """Remove an environment that nobody uses any more, and all that its jobs have kept."""
    assert host.ready("remove", name)["is_deleted"]
    host.ready("gc")
    assert host.litter() == []


@pytest.mark.parametrize("start", STARTS)
def test_remove_names_the_job_and_refuses(python_host: Host, spec: Path, start: Start) -> None:
    """However it was started, a job's interpreter holds a lease of its own, and is named with its command."""
    name = python_host.create(spec)["name"]
    with Job(start(python_host, name), env=python_host.environ()) as job:
        assert job.ask("__import__('payload').version") == "1.0"
        code, error = python_host.refused("remove", name)
        assert (code, error["code"]) == (7, "in_use")
        users = {user["pid"]: user for user in error["fields"]["users"]}
        assert list(users) == [job.pid]
        assert "for line in sys.stdin" in users[job.pid]["command"]
        assert users[job.pid]["how"] == "lease"
        (listed,) = [one for one in python_host.ready("list")["environments"] if one["name"] == name]
        assert [user["pid"] for user in listed["used_by"]] == [job.pid]
        job.end()
    leave(python_host, name)


def test_a_child_outlives_the_holder(python_host: Host, spec: Path, orphanage: None) -> None:
    """A child that inherited the lease keeps the build after the process that took it was killed."""
    name = python_host.create(spec)["name"]
    program = (
        "import subprocess, sys, envmgr\n"
        "env = envmgr.ensure(sys.argv[1])\n"
        "child = env.popen(['sleep', '1000'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    holder = python_host.start(name, program=("-c", program), stdin=subprocess.PIPE)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    holder.kill()
    holder.communicate()
    try:
        code, error = python_host.refused("remove", name)
        assert code == 7
        assert [user["pid"] for user in error["fields"]["users"]] == [child]
    finally:
        os.kill(child, signal.SIGKILL)
    assert reap_orphans() == 1
    leave(python_host, name)


@pytest.mark.parametrize("start", STARTS)
def test_relock_under_a_running_job(python_host: Host, spec: Path, own_channel: Path, start: Start) -> None:
    """A job goes on importing from the build it started in, also what it had not imported; who starts later, anew."""
    name = python_host.create(spec)["name"]
    with Job(start(python_host, name), env=python_host.environ()) as job:
        old = job.ask("__import__('sys').prefix")
        assert job.ask(EARLY) == str(("1.0", old))
        assert "/builds/" in old
        payload(own_channel, "2.0")
        relocked = python_host.ready("relock", name)
        assert relocked["is_new"]
        assert relocked["prefix"] != old
        assert job.ask(LATE) == str(("1.0", old))
        with Job(start(python_host, name), env=python_host.environ()) as later:
            assert later.ask(LATE) == str(("2.0", relocked["prefix"]))
            assert job.ask("__import__('colorsys').__file__").startswith(old)
            later.end()
        assert Path(old).is_dir()
        job.end()
    assert python_host.ready("relock", name)["is_new"] is False
    assert not Path(old).exists()
    leave(python_host, name)


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_children_of_a_job_stay_in_its_build(python_host: Host, spec: Path, own_channel: Path, method: str) -> None:
    """A multiprocessing child that is started after a relock imports from the build of its parent."""
    name = python_host.create(spec)["name"]
    with Job(by_path(python_host, name), env=python_host.environ()) as job:
        old = job.ask("__import__('sys').prefix")
        payload(own_channel, "2.0")
        assert python_host.ready("relock", name)["is_new"]
        assert job.ask(CHILD.format(method)) == str(("1.0", old))
        assert job.ask(
            "__import__('subprocess').check_output([sys.executable, '-c', 'import payload; print(payload.version)'])"
        ) == str(b"1.0\n")
        job.end()
    leave(python_host, name)


def test_a_child_process_keeps_the_build_after_its_parent(python_host: Host, spec: Path, orphanage: None) -> None:
    """A forked child of a job holds the lease on its own, without its parent."""
    name = python_host.create(spec)["name"]
    program = (
        "import os, sys\n"
        "if os.fork():\n    os._exit(0)\n"
        "print(os.getpid(), flush=True)\n"
        "sys.stdin.read()\n"
        "import payload.late\n"
        "print(payload.late.version, flush=True)\n"
    )
    with Job([python_host.root / "envs" / name / "bin" / "python", "-c", program]) as job:
        assert job.process.stdout is not None
        assert job.process.stdin is not None
        child = int(job.process.stdout.readline())
        job.process.wait()
        code, error = python_host.refused("remove", name)
        assert (code, [user["pid"] for user in error["fields"]["users"]]) == (7, [child])
        assert not python_host.ready("remove", name, "--when-free")["is_deleted"]
        job.process.stdin.close()
        assert job.process.stdout.readline() == "1.0\n"
        assert job.process.stdout.read() == ""
        job.process.stdout.close()
        job.process.stdin = job.process.stdout = None
        assert job.process.stderr is not None
        job.process.stderr.close()
    assert reap_orphans() == 1
    python_host.ready("gc")
    assert python_host.litter() == []


def test_remove_when_free_under_a_running_job(python_host: Host, spec: Path) -> None:
    """The name goes at once, the files when the job has ended: until then it imports what it likes."""
    name = python_host.create(spec)["name"]
    with Job(by_path(python_host, name), env=python_host.environ()) as job:
        old = job.ask("__import__('sys').prefix")
        removed = python_host.ready("remove", name, "--when-free")
        assert not removed["is_deleted"]
        assert [user["pid"] for user in removed["used_by"]] == [job.pid]
        assert name not in python_host.names()
        assert python_host.run("run", name, "--", "true").code == 6
        python_host.ready("gc")
        assert job.ask(LATE) == str(("1.0", old))
        job.end()
    python_host.ready("gc")
    assert not Path(old).exists()
    assert python_host.litter() == []


def test_remove_and_create_again_while_in_use(python_host: Host, spec: Path, own_channel: Path) -> None:
    """A name can be created again while its old build is in use; each job imports from its own build."""
    first = python_host.create(spec)
    name = first["name"]
    with Job(by_path(python_host, name), env=python_host.environ()) as job:
        assert job.ask("__import__('payload').version") == "1.0"
        payload(own_channel, "2.0")
        python_host.ready("remove", name, "--when-free", "--forget")
        second = python_host.create(spec)
        assert second["built"]
        assert second["prefix"] != first["prefix"]
        with Job(by_path(python_host, name), env=python_host.environ()) as other:
            assert other.ask(LATE) == str(("2.0", second["prefix"]))
            assert job.ask(LATE) == str(("1.0", first["prefix"]))
            other.end()
        job.end()
    python_host.ready("gc")
    assert not Path(first["prefix"]).exists()
    assert Path(second["prefix"]).exists()
    leave(python_host, name)


def test_a_job_outside_python_is_found(python_host: Host, spec: Path) -> None:
    """An interpreter under ``-S``, which runs no hook, holds no lease and is named all the same."""
    name = python_host.create(spec)["name"]
    python = python_host.root / "envs" / name / "bin" / "python"
    with Job([python, "-I", "-S", "-c", SEARCH]) as job:
        assert job.ask("1 + 1") == "2"
        code, error = python_host.refused("remove", name)
        assert (code, [user["pid"] for user in error["fields"]["users"]]) == (7, [job.pid])
        assert error["fields"]["users"][0]["how"] == "exe"
        job.end()
    leave(python_host, name)


def test_the_library_keeps_its_build(python_host: Host, spec: Path, own_channel: Path) -> None:
    """An `Environment` leads to the build that it leased, whatever the name leads to meanwhile."""
    with envmgr.ensure(spec, root=python_host.root) as environment:
        payload(own_channel, "2.0")
        python_host.ready("relock", environment.name)
        command = ["python", "-c", "import payload; print(payload.version)"]
        assert environment.run(command, capture_output=True, text=True).stdout == "1.0\n"
        with envmgr.ensure(spec, root=python_host.root) as fresh:
            assert fresh.run(command, capture_output=True, text=True).stdout == "2.0\n"
        name = environment.name
    leave(python_host, name)


def test_a_lockfile_survives_remove(python_host: Host, spec: Path, own_channel: Path) -> None:
    """What is created again after ``remove`` is the same packages, also when the channel has newer ones by then."""
    first = python_host.create(spec)
    payload(own_channel, "2.0")
    (own_channel / "noarch" / "payload-1.0-0.conda").touch()
    index(own_channel)
    leave(python_host, first["name"])
    again = python_host.create(spec)
    assert again["built"]
    assert again["lock_digest"] == first["lock_digest"]
    python_host.ready("remove", first["name"], "--forget")
    fresh = python_host.create(spec)
    assert fresh["lock_digest"] != first["lock_digest"]
    leave(python_host, first["name"])
