"""Bounding memory by cgroups: what is arranged where, and what is refused.

A directory stands for the kernel's file system, so that each layout is tested on every machine; where this process may
make a group, the kernel shows that it bounds one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from envmgr import cgroups
from envmgr.cgroups import Group, Unavailable

UNIT = "system.slice/envmgr.service"


class Kernel:
    """A tree of cgroups, and what /proc says of this process's."""

    def __init__(self, directory: Path) -> None:
        self.proc = directory / "proc"
        self.root = directory / "sys"
        self.proc.mkdir()
        self.root.mkdir()
        (self.proc / "mountinfo").write_text(
            f"25 1 0:5 / /proc rw - proc proc rw\n31 1 0:29 / {self.root} rw shared:4 - cgroup2 cgroup2 rw\n"
        )

    def cgroup(self, path: str, *, controllers: str = "memory pids", subtree: str = "", procs: str = "") -> Path:
        directory = self.root / path
        directory.mkdir(parents=True)
        (directory / "cgroup.controllers").write_text(f"{controllers}\n")
        (directory / "cgroup.subtree_control").write_text(f"{subtree}\n")
        (directory / "cgroup.procs").write_text(procs)
        return directory

    def enter(self, path: str) -> None:
        (self.proc / "cgroup").write_text(f"4:memory:/elsewhere\n0::/{path}\n")


@pytest.fixture
def kernel(tmp_path: Path) -> Kernel:
    return Kernel(tmp_path)


def test_a_delegated_service_moves_into_a_leaf(kernel: Kernel) -> None:
    """Alone in its unit, this process goes into ``main``, and the unit's cgroup hands memory down."""
    unit = kernel.cgroup(UNIT, procs=f"{os.getpid()}\n")
    kernel.enter(UNIT)
    assert cgroups.base(kernel.proc) == unit
    assert (unit / "main/cgroup.procs").read_text() == str(os.getpid())
    assert (unit / "cgroup.subtree_control").read_text() == "+memory"


def test_what_was_arranged_is_arranged_once(kernel: Kernel) -> None:
    """In a container nothing is a unit: the second time, this process is in its own leaf, and goes no deeper."""
    own = kernel.cgroup("payload", controllers="memory cpu", procs=f"{os.getpid()}\n")
    kernel.enter("payload")
    assert cgroups.base(kernel.proc) == own
    kernel.enter("payload/main")
    (own / "cgroup.subtree_control").write_text("memory\n")
    assert cgroups.base(kernel.proc, controllers=("memory", "cpu")) == own
    assert (own / "cgroup.subtree_control").read_text() == "+cpu"
    assert not (own / "main/main").exists()


@pytest.mark.parametrize("subtree", ["", "memory"])
def test_in_a_leaf_the_unit_above_is_the_base(kernel: Kernel, subtree: str) -> None:
    """Whoever is in the leaf already, by itself or by systemd (DelegateSubgroup=), only has memory handed down."""
    unit = kernel.cgroup(UNIT, subtree=subtree)
    kernel.cgroup(f"{UNIT}/leaf", procs="1\n2\n")
    kernel.enter(f"{UNIT}/leaf")
    assert cgroups.base(kernel.proc) == unit
    assert "memory" in (unit / "cgroup.subtree_control").read_text()
    assert (unit / "leaf/cgroup.procs").read_text() == "1\n2\n"


def test_a_users_own_unit_is_not_the_managers(kernel: Kernel) -> None:
    """Below ``user@….service`` lie a user manager's units, which are not ours to arrange."""
    manager = "user.slice/user@1000.service"
    kernel.cgroup(manager)
    kernel.cgroup(f"{manager}/init.scope", procs="1\n")
    kernel.enter(f"{manager}/init.scope")
    with pytest.raises(Unavailable, match="not ours alone"):
        cgroups.base(kernel.proc)


def test_what_is_not_ours_is_left_as_it_is(kernel: Kernel) -> None:
    """Other processes in our cgroup, no controller, no such file system: each is named, and nothing was written."""
    kernel.cgroup("session.scope", procs=f"{os.getpid()}\n4711\n")
    kernel.enter("session.scope")
    with pytest.raises(Unavailable, match="1 other processes"):
        cgroups.base(kernel.proc)
    kernel.cgroup("bare.service", controllers="pids", procs=f"{os.getpid()}\n")
    kernel.enter("bare.service")
    with pytest.raises(Unavailable, match="Delegate=memory"):
        cgroups.base(kernel.proc)
    kernel.enter("none.service")
    with pytest.raises(Unavailable, match="No such file"):
        cgroups.base(kernel.proc)
    kernel.enter("bare.service")
    with pytest.raises(Unavailable, match=r"the controllers memory and cpu are not .*Delegate=memory cpu"):
        cgroups.base(kernel.proc, controllers=("memory", "cpu"))
    (kernel.proc / "mountinfo").write_text("25 1 0:5 / /proc rw - proc proc rw\n")
    with pytest.raises(Unavailable, match="version 2"):
        cgroups.base(kernel.proc)
    assert sorted(path.name for path in kernel.root.glob("*/*")) == sorted(
        2 * ["cgroup.controllers", "cgroup.procs", "cgroup.subtree_control"]
    )


@pytest.mark.parametrize(
    ("subtree", "written"), [("", "+memory +cpu"), ("memory", "+cpu"), ("cpu memory", "cpu memory\n")]
)
def test_only_controllers_that_are_needed_are_handed_down(kernel: Kernel, subtree: str, written: str) -> None:
    """A program's limits may need the CPU controller, too; what is handed down already is left as it is."""
    unit = kernel.cgroup(UNIT, controllers="cpu memory", subtree=subtree)
    kernel.cgroup(f"{UNIT}/leaf")
    kernel.enter(f"{UNIT}/leaf")
    assert cgroups.base(kernel.proc, controllers=("memory", "cpu")) == unit
    assert (unit / "cgroup.subtree_control").read_text() == written


def test_a_group_of_a_program(tmp_path: Path) -> None:
    """Memory, CPUs, or both; what has no limit is not written, and a peak that no kernel tells is not known."""
    group = Group(tmp_path, None, 3, kind="run")
    (path,) = tmp_path.glob(f"envmgr-run-{os.getpid()}-*")
    assert {entry.name: entry.read_text() for entry in path.iterdir()} == {"cpu.max": "300000 100000"}
    assert group.peak_bytes is None
    (path / "memory.peak").write_text("4711\n")
    assert group.peak_bytes == 4711
    assert group.members == path / "cgroup.procs"


def test_an_empty_group_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    """Making a group removes those that nobody is in; what is not ours by its name stays."""
    (tmp_path / "envmgr-build-0123456789ab").mkdir()
    (tmp_path / "main").mkdir()
    group = Group(tmp_path, 1 << 20)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 2
    assert "envmgr-build-0123456789ab" not in names
    assert (tmp_path / names[0] / "memory.max").read_text() == str(1 << 20)
    assert not group.has_run_out


def test_a_group_that_nobody_is_in_yet_is_not_a_leftover(tmp_path: Path) -> None:
    """Two builds begin at one moment: neither takes the other's empty group away, whichever process they are of."""
    group = Group(tmp_path, 1 << 20)
    own = next(tmp_path.iterdir())
    for entry in own.iterdir():
        entry.unlink()  # the kernel's own files keep no group from being removed
    others = tmp_path / f"envmgr-build-{os.getppid()}-0123456789ab"
    others.mkdir()
    dead = subprocess.Popen(["true"])
    dead.wait()
    (tmp_path / f"envmgr-build-{dead.pid}-0123456789ab").mkdir()
    second = Group(tmp_path, 1 << 20)
    assert own.is_dir()
    assert others.is_dir()
    assert len(list(tmp_path.iterdir())) == 3
    group.remove()
    assert not own.exists()
    second.remove()


def test_the_kernel_bounds_a_family() -> None:
    """A process that uses more than its group may is killed, the group says so, and it can be removed afterwards."""
    try:
        base = cgroups.base()
    except Unavailable as error:
        pytest.skip(f"no memory controller of cgroup v2 to arrange: {error}")
    group = Group(base, 32 << 20)
    try:
        code = "import sys; sys.stdin.read(); bytearray(256 << 20)"
        process = subprocess.Popen([sys.executable, "-I", "-c", code], stdin=subprocess.PIPE)
        group.add(process.pid)
        process.communicate()
        assert process.returncode == -9
        assert group.has_run_out
    finally:
        group.remove()
    assert not list(base.glob("envmgr-build-*"))
