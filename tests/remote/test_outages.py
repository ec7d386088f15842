"""Daemons that are killed, restarted, stopped or gone: each caller gets an answer, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from pathlib import Path

import daemon_process
import pytest
from cli.command_line import Cli
from daemon_process import Place
from fakes.processes import Forked

import envmgr
import envmgr.aio
from envmgr import ready, spec, wiring
from envmgr.errors import DaemonUnavailable
from envmgr.manager.manager import Manager
from envmgr.remote.connection import Patience
from envmgr.remote.manager import RemoteManager
from envmgr.store import opening
from envmgr.wire import address

pytestmark = pytest.mark.slow  # real daemons
WANTED = spec.parse("dependencies: [numpy]")
DOCUMENT = "dependencies:\n  - numpy\n"
CLIENTS = 20


def leftovers(place: Place) -> list[str]:
    """Return the builds beside the published ones."""
    published = {os.readlink(path).split("/")[2] for path in (place.root / "envs").glob("env-*")}
    return sorted(path.name for path in (place.root / "builds").iterdir() if path.name not in published)


def test_a_daemon_that_is_killed_in_the_middle(served: Place) -> None:
    """Its caller is told that it is gone, with a hint; its owner works on without it, and finds nothing left over."""
    served.orders.hang()
    found: list[BaseException] = []
    remote = served.remote(Patience(1.0, 1.0, 1.0, 0.3))

    def ask() -> None:
        with pytest.raises(DaemonUnavailable) as raised:
            remote.ensure(WANTED)
        found.append(raised.value)

    caller = threading.Thread(target=ask)
    caller.start()
    served.orders.wait_started()
    assert served.end(signal.SIGKILL) == -signal.SIGKILL
    caller.join(20)
    served.orders.release_nobody()
    (error,) = found
    assert isinstance(error, DaemonUnavailable)
    assert error.is_transient
    assert "envmgr daemon starts it" in str(error.hint)
    front = served.front()
    assert isinstance(front, Manager)
    front.ensure(WANTED).lease.close()
    assert leftovers(served) == []


def test_a_daemon_that_is_killed_and_restarted_answers_all(served: Place) -> None:
    """Twenty callers wait while the daemon is killed and started again: one build, and each has its lease."""
    served.orders.hang()
    remote = served.remote(Patience(reconnect_s=20.0))
    built: list[str] = []

    def ask() -> None:
        ensured = remote.ensure(WANTED)
        built.append(ensured.lease.build_id)
        ensured.lease.close()

    callers = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for caller in callers:
        caller.start()
    served.orders.wait_started()
    served.end(signal.SIGKILL)
    served.orders.release_nobody()
    served.start()
    for caller in callers:
        caller.join(40)
    assert len(built) == CLIENTS
    assert len(set(built)) == 1
    assert len(served.backend().begun()) == 2
    assert leftovers(served) == []


def test_a_daemon_that_is_stopped_and_restarted_answers_too(served: Place) -> None:
    """A build that a stopping daemon had to cancel is the next one's to make; its caller hears of no cancelling."""
    served.orders.hang()
    remote = served.remote(Patience(reconnect_s=20.0))
    built: list[bool] = []

    def ask() -> None:
        ensured = remote.ensure(WANTED)
        built.append(ensured.was_built)
        ensured.lease.close()

    caller = threading.Thread(target=ask)
    caller.start()
    served.orders.wait_started()
    served.orders.release_nobody()
    served.hurry()
    served.start()
    caller.join(40)
    assert built == [True]
    assert leftovers(served) == []


def test_an_interrupted_command_ends_its_build(served: Place) -> None:
    """Ctrl-C ends the command with 130 at once, and a moment later the build, which nobody else wants."""
    served.orders.hang()
    cli = Cli(served.directory)
    process = cli.start("create", cli.spec("numpy"))
    served.orders.wait_started()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert (process.returncode, "ended by SIGINT" in err) == (130, True)
    served.orders.release_nobody()
    served.wait_until_idle()
    assert leftovers(served) == []


def test_a_daemon_that_stands_still(served: Place) -> None:
    """`DaemonUnavailable` in bounded time; ready environments and looks do without; the owner does not go behind it."""
    with envmgr.ensure(DOCUMENT, root=served.root) as environment:
        assert environment.built
    served.stand_still()
    try:
        began = time.monotonic()
        with pytest.raises(DaemonUnavailable, match="has not answered"):
            served.remote(Patience(0.3, 0.3, 0.3, 0.3)).ensure(spec.parse("dependencies: [other]"))
        assert time.monotonic() - began < 8
        assert isinstance(served.front(), RemoteManager)
        # Ready: by text, by name, by mapping, with the alias that it has; none of them asks anybody.
        began = time.monotonic()
        for word in (DOCUMENT, str(WANTED.name), {"dependencies": ["numpy"]}):
            envmgr.ensure(word, root=served.root).close()
        assert time.monotonic() - began < 1
        assert [info.name for info in served.front().list()] == [WANTED.name]
    finally:
        served.go_on()
    served.front().ensure(spec.parse("dependencies: [other]")).lease.close()


def test_a_ready_environment_never_touches_the_daemon(served: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a ready environment, nor an alias that it has, opens a connection."""
    envmgr.ensure(DOCUMENT, root=served.root, alias="mine").close()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(served.directory / "other"))
        listener.listen()
        listener.setblocking(False)
        monkeypatch.setenv(address.VARIABLE, str(served.directory / "other"))
        envmgr.ensure(DOCUMENT, root=served.root, alias="mine").close()
        envmgr.ensure("mine", root=served.root).close()
        envmgr.ensure({"dependencies": ["numpy"]}, root=served.root).close()
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_the_lease_is_the_callers_own(served: Place) -> None:
    """After the call no connection is left: the environment stays leased though the daemon is killed."""
    ensured = served.remote().ensure(WANTED)
    served.end(signal.SIGKILL)
    with pytest.raises(envmgr.EnvironmentInUse):
        served.front().remove(WANTED.name)
    ensured.lease.close()
    assert served.front().remove(WANTED.name).is_deleted


def test_a_cancelled_task_leaves_the_daemon_at_once(served: Place) -> None:
    """A cancelled `envmgr.aio.ensure` closes its connection promptly, and the build that nobody wants is ended."""
    served.orders.hang()

    async def main() -> float:
        task = asyncio.create_task(envmgr.aio.ensure(DOCUMENT, root=served.root))
        await asyncio.to_thread(served.orders.wait_started)
        began = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return time.monotonic() - began

    assert asyncio.run(main()) < 2
    served.wait_until_idle()
    served.orders.release_nobody()
    assert leftovers(served) == []


def test_a_socket_that_was_left_behind_is_no_daemon(served: Place) -> None:
    """After a kill the socket still stands: the store's owner works by himself."""
    path = address.socket_of(str(served.root))
    assert path is not None
    assert isinstance(served.front(), RemoteManager)
    served.end(signal.SIGKILL)
    assert Path(path).exists()
    assert isinstance(served.front(), Manager)


def test_a_services_store_without_its_daemon(tmp_path: Path) -> None:
    """Whoever is not the service's user, root included, is told to start it, and writes nothing."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for which a store of another user is no obstacle")
    root = tmp_path / "store"
    layout = opening.open_for_writing(root, "service")
    layout.owner.write_text(layout.owner.read_text().replace(f'"uid": {os.geteuid()}', '"uid": 65534'))
    before = sorted(root.rglob("*"))
    with pytest.raises(DaemonUnavailable) as raised:
        wiring.front(str(root))
    assert "systemctl start envmgr.service" in str(raised.value.hint)
    with pytest.raises(DaemonUnavailable):
        envmgr.ensure(DOCUMENT, root=root)
    assert sorted(root.rglob("*")) == before
    assert ready.acquire(str(root), str(WANTED.name)) is None


def test_somebody_elses_own_store(tmp_path: Path) -> None:
    """Who may not even connect to another user's own daemon is told whose the store is."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    with daemon_process.place(tmp_path) as place:
        for directory in (tmp_path, *tmp_path.parents):
            if not directory.stat().st_mode & 0o001:
                directory.chmod(directory.stat().st_mode | 0o011)

        def work() -> None:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            place.front()

        with pytest.raises(envmgr.PermissionRefused, match="belongs to uid 0"):
            Forked(work).result()


def test_another_user_has_what_he_needs_through_the_daemon(tmp_path: Path) -> None:
    """A user who cannot write the store gets an environment built and leases it himself; an admin's are refused."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to become another user")
    with daemon_process.place(tmp_path, is_served=False) as place:
        opening.open_for_writing(place.root, "service")
        place.start()
        path = address.socket_of(str(place.root))
        assert path is not None
        for directory in (tmp_path, *tmp_path.parents):
            if not directory.stat().st_mode & 0o001:
                directory.chmod(directory.stat().st_mode | 0o011)
        assert Forked(lambda: _as_another_user(place)).result() == [
            "built True", "uses it True", "alias", "permission", "permission", "not written",
        ]  # fmt: skip
        info = place.front().show(WANTED.name)
        assert (info.state, info.aliases) == ("ready", ("theirs",))


def _as_another_user(place: Place) -> list[str]:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    told: list[str] = []
    with envmgr.ensure(DOCUMENT, root=place.root, alias="theirs") as environment:
        told.append(f"built {environment.built}")
        front = place.front()
        assert isinstance(front, RemoteManager)
        users = {user.pid for user in front.show(environment.name).used_by}
        told.append(f"uses it {os.getpid() in users}")
        told += ["alias"] if front.aliases() == {"theirs": environment.name} else []
    for call in (lambda: front.remove(WANTED.name), lambda: front.pin(WANTED.name, is_pinned=True)):
        try:
            call()
        except envmgr.PermissionRefused as error:
            told.append(error.code)
    try:
        wiring.manager(str(place.root))
    except envmgr.PermissionRefused:
        told.append("not written")
    return told
