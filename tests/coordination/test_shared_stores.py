"""A store on a file system that several hosts mount: known by its type, and whether locks hold there is tried.

Two mounts of one directory by bindfs stand for two hosts: with lock forwarding flock excludes between them, without it
each has its own.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from fakes.worlds import NOWHERE
from link_proxy import LinkProxy

from envmgr import settings
from envmgr.coordination.zookeeper import coordinator
from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.flock_probe import FlockProbe
from envmgr.coordination.zookeeper.session import Session
from envmgr.errors import UnsuitableFilesystem
from envmgr.store import opening
from envmgr.store.layout import Layout

pytestmark = pytest.mark.slow  # a real ZooKeeper, FUSE
LIMIT_S = 20.0
FORWARDING = ("--multithreaded", "--enable-lock-forwarding")


@contextlib.contextmanager
def bound(source: Path, at: Path, *options: str) -> Iterator[Path]:
    """Mount a directory somewhere else by bindfs for the length of a block; skip where that is not possible."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a file system")
    if shutil.which("bindfs") is None:
        pytest.skip("needs bindfs")
    at.mkdir()
    done = subprocess.run(["bindfs", *options, source, at], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"bindfs cannot mount here: {done.stderr.strip()}")
    try:
        yield at
    finally:
        subprocess.run(["umount", "--lazy", at], check=True)


class Hosts:
    """Probes of hosts, each with a session of its own."""

    def __init__(self, endpoint: Endpoint, held: contextlib.ExitStack) -> None:
        self._endpoint = endpoint
        self._held = held

    def probe(self, host: str, locks: Path, *, servers: tuple[str, ...] = ()) -> FlockProbe:
        session = Session(replace(self._endpoint, servers=servers) if servers else self._endpoint)
        self._held.callback(session.close)
        session.start()
        probe = FlockProbe(session, host=host, store_id="one", locks=locks)
        self._held.callback(probe.close)
        return probe


@pytest.fixture
def hosts(endpoint: Endpoint) -> Iterator[Hosts]:
    with contextlib.ExitStack() as held:
        yield Hosts(endpoint, held)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """The directory of a store's locks, as the server of the file system has it."""
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared"


def test_locks_that_hold(hosts: Hosts, shared: Path, tmp_path: Path) -> None:
    """Refused each other's locks, both hosts may delete; one that is left alone remembers, until it mounts anew."""
    with bound(shared, tmp_path / "a", *FORWARDING) as on_a, bound(shared, tmp_path / "b", *FORWARDING) as on_b:
        a, b = hosts.probe("a", on_a), hosts.probe("b", on_b)
        a.hold()
        with pytest.raises(UnsuitableFilesystem, match="no other host"):
            a.check()
        b.hold()
        a.check()
        b.check()
        b.close()
        a.check()
        hosts.probe("a", on_a).check()
        with bound(shared, tmp_path / "again", *FORWARDING) as again, pytest.raises(UnsuitableFilesystem):
            hosts.probe("a", again).check()


def test_locks_that_end_at_the_host(hosts: Hosts, shared: Path, tmp_path: Path) -> None:
    """Granted a lock that the other holds, a host may delete nothing, and says which host and what to do."""
    with bound(shared, tmp_path / "a") as on_a, bound(shared, tmp_path / "b") as on_b:
        a, b = hosts.probe("a", on_a), hosts.probe("b", on_b)
        a.hold()
        b.hold()
        for probe, other in ((a, "b"), (b, "a")):
            with pytest.raises(UnsuitableFilesystem) as caught:
                probe.check()
            assert caught.value.fields["host"] == other
            assert "mount it with locks" in str(caught.value.hint)
        b.close()
        with pytest.raises(UnsuitableFilesystem):
            a.check()


def test_a_host_that_has_died_looks_the_same_for_a_while(hosts: Hosts, shared: Path) -> None:
    """Its lock is free and its session is not over: refused now, and nothing is concluded; later it counts no more."""
    a, b = hosts.probe("a", shared), hosts.probe("b", shared)
    a.hold()
    b.hold()
    a.check()
    b_fd = b._fd
    assert b_fd is not None
    fcntl.flock(b_fd, fcntl.LOCK_UN)  # as the kernel does for a process that is killed
    with pytest.raises(UnsuitableFilesystem):
        a.check()
    b.close()
    a.check()


def test_a_new_session_says_so_again(hosts: Hosts, shared: Path, endpoint: Endpoint) -> None:
    """A host whose session was lost holds its lock on, and announces it in the next one."""
    with LinkProxy(endpoint.servers[0]) as link:
        a, b = hosts.probe("a", shared), hosts.probe("b", shared, servers=(link.address,))
        b.hold()
        a.check()
        link.cut()
        _wait_for(lambda: not a._session.children(a._holders))
        link.mend()
        _wait_for(lambda: bool(a._session.children(a._holders)))
        a.check()
        b.close()
        b._session.close()


def _wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + LIMIT_S
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError
        time.sleep(0.05)


def test_one_daemon_of_a_host_holds(hosts: Hosts, shared: Path) -> None:
    """A second one of the same host leaves the first one's word alone, and takes its place when it ends."""
    a, first, second = hosts.probe("a", shared), hosts.probe("b", shared), hosts.probe("b", shared)
    first.hold()
    second.hold()
    a.check()
    second.close()
    a.check()
    first.close()
    again = hosts.probe("b", shared)
    again.hold()
    a.check()


def test_where_a_store_lies(tmp_path: Path, endpoint: Endpoint) -> None:
    """FUSE is shared, a local file system is not; a coordinator of a shared store wants its probe's word."""
    local = opening.open_for_writing(tmp_path / "local")
    assert not opening.is_on_shared_filesystem(local)
    (tmp_path / "source").mkdir()
    with bound(tmp_path / "source", tmp_path / "mount", *FORWARDING) as mount:
        layout = opening.open_for_writing(mount / "store")
        assert opening.is_on_shared_filesystem(layout)
        values = settings.load(root=NOWHERE, mode="personal", environ={}, home=NOWHERE, etc=NOWHERE)
        session = Session(endpoint)
        session.start()
        try:
            _check_coordinators(session, layout, local, values)
        finally:
            session.close()


def _check_coordinators(session: Session, layout: Layout, local: Layout, values: settings.Settings) -> None:
    one = coordinator.of_store(session, layout, host="a", settings_of=lambda: values)
    two = coordinator.of_store(session, layout, host="b", settings_of=lambda: values)
    alone = coordinator.of_store(session, local, host="a", settings_of=lambda: values)
    assert (one.is_shared, alone.is_shared) == (True, False)
    alone.check_deletion()
    with pytest.raises(UnsuitableFilesystem):
        one.check_deletion()
    two.hold()
    one.check_deletion()
    for each in (one, two, alone):
        each.close()


def test_a_sibling_that_just_tries_a_lock_does_not_take_it_for_good(hosts: Hosts, shared: Path) -> None:
    """The daemon whose lock it is begins while it looks, and is refused: it has the lock all the same, a bit later."""
    earlier, a, b = (hosts.probe(host, shared) for host in "aab")
    earlier.hold()
    earlier.close()
    (file,) = shared.iterdir()
    trying = os.open(file, os.O_RDWR)
    fcntl.flock(trying, fcntl.LOCK_SH)
    let_go = threading.Timer(0.2, os.close, [trying])
    let_go.start()
    a.hold()
    let_go.join()
    b.check()


def test_siblings_that_look_at_the_same_time_are_no_holder(hosts: Hosts, shared: Path) -> None:
    """A lock that holds nowhere else is free for each of those who try it, also while another one tries it, too."""
    a, siblings = hosts.probe("a", shared), [hosts.probe(name, shared) for name in ("b", "c", "d")]
    a.hold()
    fd, a._fd = a._fd, None
    assert fd is not None
    os.close(fd)  # announced, and not seen to be held: as where each mount has locks of its own
    passed: list[str] = []

    def look(probe: FlockProbe) -> None:
        for _ in range(200):
            with contextlib.suppress(UnsuitableFilesystem):
                probe.check()
                passed.append("it counted another one's try")

    with ThreadPoolExecutor() as pool:
        list(pool.map(look, siblings))
    assert passed == []
