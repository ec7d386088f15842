"""A lease keeps a build on disk for as long as any process has it, and nobody gets one of a build that goes away."""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import sys
from pathlib import Path
from types import FrameType

import pytest
from fakes.processes import Forked, gates
from fakes.worlds import begin, digest_of, name_of, open_descriptors

from envmgr import fsio, ready
from envmgr.errors import Corrupt, EnvironmentInUse, PermissionRefused
from envmgr.fsio import Step
from envmgr.store import leases, publication, sweep, usage
from envmgr.store.layout import Layout

NAME = name_of("numpy")
NOBODY = 65534
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")

HOLDER = """
import os, subprocess, sys
from envmgr import fsio, ready
root, name = sys.argv[1:]
lease = ready.acquire(root, name)
child = subprocess.Popen(["cat"], pass_fds=[lease.fileno()])
os.write(1, b"%d\\n" % child.pid)
child.wait()
"""


def publish(layout: Layout, word: str = "numpy") -> None:
    lease = begin(layout, word)
    assert publication.publish(layout, lease.name, lease.build_id)
    lease.close()


def acquire(layout: Layout) -> ready.Lease:
    lease = ready.acquire(str(layout.root), NAME)
    assert lease is not None
    return lease


def take_away(layout: Layout) -> None:
    build_id = publication.current(layout, NAME)
    assert build_id is not None
    assert publication.unpublish(layout, NAME, build_id)
    assert sweep.discard(layout, build_id)


def wait_for(pid: int) -> None:
    fd = os.pidfd_open(pid)
    try:
        assert select.select([fd], [], [], 60)[0]
    finally:
        os.close(fd)


def test_a_build_is_leased_from_its_beginning(layout: Layout) -> None:
    """No moment exists at which a sweep could take a build that was just begun."""
    lease = begin(layout, "numpy")
    assert not sweep.discard(layout, lease.build_id)
    assert sweep.sweep_name(layout, digest_of("numpy")) == ()
    lease.close()
    assert sweep.sweep_name(layout, digest_of("numpy")) == (lease.build_id,)


def test_a_child_keeps_the_lease_of_a_killed_holder(layout: Layout) -> None:
    """A child that inherited the descriptor keeps the build in use after its parent was killed, and is named."""
    publish(layout)
    build_id = publication.current(layout, NAME)
    assert build_id is not None
    path = layout.build(build_id).lease
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(layout.root), NAME], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        assert {user.pid for user in usage.lock_holders([path])[path]} == {holder.pid, child}
        holder.kill()
        holder.wait()
        assert [(user.pid, user.how, user.command) for user in usage.lock_holders([path])[path]] == [
            (child, "lease", "cat")
        ]
        assert not sweep.discard(layout, build_id)
        with leases.exclusive(layout.build(build_id)) as is_granted:
            assert not is_granted
        holder.stdin.close()  # the child reads until here, and ends
        wait_for(child)
    take_away(layout)


def test_closing_gives_a_lease_back_here_only(layout: Layout) -> None:
    """`close` in the parent leaves the lease of a child that shares the descriptor; the last one's end frees it."""
    publish(layout)
    lease = acquire(layout)
    with gates(1) as (end,):
        child = Forked(end.wait)
        lease.close()
        lease.close()
        with leases.exclusive(layout.build(lease.build_id)) as is_granted:
            assert not is_granted
        end.open()
        child.result()
        with leases.exclusive(layout.build(lease.build_id)) as is_granted:
            assert is_granted
    with pytest.raises(ValueError, match="given back"):
        lease.fileno()


def test_an_exclusive_lease_is_only_tried(layout: Layout) -> None:
    """Who wants a build for himself is told at once that it is used; he does not wait, and harms no holder."""
    publish(layout)
    lease = acquire(layout)
    for _ in range(2):
        with leases.exclusive(layout.build(lease.build_id)) as is_granted:
            assert not is_granted
    assert sweep.all_builds(layout) == (lease.build_id,)
    lease.close()


def test_a_reader_waits_out_a_remover(layout: Layout) -> None:
    """While a remover has the lease to itself nobody gets one; when it was given up, everybody does again."""
    publish(layout)
    build_id = publication.current(layout, NAME)
    assert build_id is not None
    with leases.exclusive(layout.build(build_id)) as is_granted:
        assert is_granted
        with pytest.raises(EnvironmentInUse, match="held exclusively") as refused:
            ready.acquire(str(layout.root), NAME, patience_s=0.02)
        assert "doctor" in str(refused.value)
    acquire(layout).close()


def test_a_build_removed_between_look_and_lock_is_not_leased(layout: Layout) -> None:
    """A reader that was overtaken by remove and create leases the new build, never the one that is gone."""
    publish(layout)
    second = begin(layout, "numpy")

    def overtake() -> None:
        first = publication.current(layout, NAME)
        assert first is not None
        assert publication.republish(layout, NAME, first, second.build_id)
        assert sweep.discard(layout, first)

    assert Forked(lambda: _acquired_while("open", overtake, layout)).result()[0] == second.build_id
    second.close()


def test_a_reused_build_id_is_not_mistaken_for_the_old_build(layout: Layout) -> None:
    """A lease that a reader locks after its build was deleted does not count, even if the new build has the same id."""
    publish(layout)

    def overtake() -> None:
        take_away(layout)
        publish(layout)

    build_id, is_in_use = Forked(lambda: _acquired_while("fcntl.flock", overtake, layout)).result()
    assert publication.current(layout, NAME) == build_id
    assert is_in_use


def test_a_reader_that_locked_a_build_in_the_trash_starts_over(layout: Layout) -> None:
    """A lease that was locked while its build lay in the trash does not count for the next build of the same id."""
    publish(layout)
    old = publication.current(layout, NAME)
    assert old is not None
    left = [True]  # emptied before the work, which is done by forked processes with the same hooks
    trash: list[Path] = []

    def take_away_undeleted() -> Path | None:
        assert publication.unpublish(layout, NAME, old)
        with leases.exclusive(layout.build(old)) as is_granted:
            assert is_granted
            return sweep.to_trash(layout, old)

    def before_the_lock(event: str, _: tuple[object, ...]) -> None:
        if event == "fcntl.flock" and left:
            left.clear()
            moved = Forked(take_away_undeleted).result()
            assert moved is not None
            trash.append(moved)

    def before_the_second_look(frame: FrameType, event: str, _: object) -> None:
        # By now the lease is locked, and every check of the lock itself is done.
        if event == "call" and frame.f_code is ready.resolve.__code__ and trash and trash[0].exists():
            fsio.delete_tree(Step.DELETE, trash[0])
            Forked(lambda: publish(layout)).result()

    def read() -> tuple[str, bool]:
        sys.addaudithook(before_the_lock)
        sys.setprofile(before_the_second_look)
        lease = acquire(layout)
        sys.setprofile(None)
        assert not trash[0].exists()
        with leases.exclusive(layout.build(lease.build_id)) as is_granted:
            return lease.build_id, not is_granted

    assert Forked(read).result() == (old, True)
    assert publication.current(layout, NAME) == old


def _acquired_while(event: str, overtake: object, layout: Layout) -> tuple[str, bool]:
    """Lease while something happens in another process just before the first `event` of ours (sys.audit)."""
    left = [overtake]

    def hook(name: str, arguments: tuple[object, ...]) -> None:
        if name == event and left and (event != "open" or str(arguments[0]).endswith("/lease")):
            work = left.pop()
            assert callable(work)
            Forked(work).result()

    sys.addaudithook(hook)
    lease = acquire(layout)
    with leases.exclusive(layout.build(lease.build_id)) as is_granted:
        return lease.build_id, not is_granted


@pytest.mark.parametrize("missing", ["lease", "build"])
def test_a_build_deleted_by_hand_is_corrupt(layout: Layout, missing: str) -> None:
    """A name whose build or lease somebody deleted gives `Corrupt` with a hint, not a wait for nobody."""
    publish(layout)
    build_id = publication.current(layout, NAME)
    assert build_id is not None
    if missing == "lease":
        layout.build(build_id).lease.unlink()
    else:
        layout.build(build_id).directory.rename(layout.root / "elsewhere")
    before = open_descriptors()
    with pytest.raises(Corrupt, match="lease") as refused:
        ready.acquire(str(layout.root), NAME, patience_s=0.02)
    assert refused.value.hint is not None
    assert "repair" in refused.value.hint
    assert open_descriptors() == before


def test_a_new_build_never_stands_where_a_name_leads(layout: Layout) -> None:
    """With its build deleted by hand, a name leads nowhere; a new build does not appear under it half made."""
    publish(layout)
    build_id = publication.current(layout, NAME)
    assert build_id is not None
    layout.build(build_id).directory.rename(layout.root / "elsewhere")
    lease = begin(layout, "numpy")
    assert lease.build_id != build_id
    lease.close()


@AS_ROOT
def test_another_user_may_lease(layout: Layout, tmp_path: Path) -> None:
    """A reader of another uid leases a build that was made under a strict umask, is named, and may write nothing."""
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    before = os.umask(0o077)
    try:
        begun = sweep.begin_build(layout, NAME, digest_of("numpy"))
    finally:
        os.umask(before)
    Path(begun.prefix, "bin").mkdir(parents=True)
    Path(begun.prefix, "bin", "tool").write_text(begun.build_id, encoding="ascii")
    assert publication.publish(layout, NAME, begun.build_id)
    begun.close()
    with gates(2) as (leased, end):

        def read() -> str:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            lease = acquire(layout)
            leased.open()
            end.wait()
            with pytest.raises(PermissionError):
                Path(lease.build_dir, "intruder").touch()
            return Path(lease.path, "bin", "tool").read_text(encoding="ascii")

        reader = Forked(read)
        leased.wait()
        build_id = publication.current(layout, NAME)
        assert build_id is not None
        path = layout.build(build_id).lease
        assert [(user.pid, user.uid) for user in usage.lock_holders([path])[path]] == [(reader.pid, NOBODY)]
        assert not sweep.discard(layout, build_id)
        end.open()
        assert reader.result() == build_id
    take_away(layout)


@AS_ROOT
def test_a_store_that_may_not_be_read_says_so(layout: Layout, tmp_path: Path) -> None:
    """A reader who may not enter the store gets `PermissionRefused`, as an error of ours."""
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    publish(layout)
    layout.root.chmod(0o700)

    def read() -> None:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        acquire(layout)

    with pytest.raises(PermissionRefused, match="store"):
        Forked(read).result()


def test_usage_names_exclusive_holders(layout: Layout) -> None:
    """A process that took a lease exclusively by mistake is found, while readers are not accused."""
    publish(layout)
    lease = acquire(layout)
    path = layout.build(lease.build_id).lease
    assert usage.exclusive_holders([path]) == {}
    lease.close()
    fd = os.open(path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert [user.pid for user in usage.exclusive_holders([path])[path]] == [os.getpid()]
    os.close(fd)


@pytest.mark.parametrize("is_linked", [False, True], ids=["real root", "root through a link"])
def test_processes_inside_are_found_without_a_lease(layout: Layout, tmp_path: Path, *, is_linked: bool) -> None:
    """A process that merely sits in a prefix is seen, also where the store's root is reached through a link."""
    if is_linked:
        (tmp_path / "link").symlink_to(layout.root)
        layout = Layout(tmp_path / "link")
    publish(layout)
    build_id = publication.current(layout, NAME)
    assert build_id is not None
    prefix = layout.build(build_id).prefix(NAME)
    with subprocess.Popen(["cat"], cwd=prefix, stdin=subprocess.PIPE) as sitting:
        found = usage.processes_inside(layout.build(build_id).directory)
        assert [(user.pid, user.how) for user in found] == [(sitting.pid, "cwd")]
        assert publication.unpublish(layout, NAME, build_id)
        assert not sweep.discard(layout, build_id)
    assert sweep.discard(layout, build_id)
