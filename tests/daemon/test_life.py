"""The daemon's life: where it listens, that it is the only one, how it reloads, drains, is killed, and comes back."""

from __future__ import annotations

import contextlib
import http.client
import os
import select
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from served import PROGRAM, Client, Daemon, code_of, connect, running, spec

from envmgr.daemon import systemd
from envmgr.store import opening

ACTIVATE = """\
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    found = Daemon(tmp_path)
    try:
        yield found
    finally:
        found.close()


def begin_build(daemon: Daemon, *requirements: str) -> str:
    """Begin a build that stands still; return its operation."""
    daemon.orders.hang()
    with daemon.client() as client:
        operation = client.ask("POST", "/v1/environments", {"spec": spec(*requirements)}).data["operation"]["id"]
    daemon.orders.wait_started()
    return str(operation)


def end_of(client: Client, operation: str) -> dict[str, object]:
    *_, (_, event, end) = client.events(operation)
    assert event == "end"
    return dict(end)


# ------------------------------------------------------------------------------------------------------ where it is


def test_the_socket_of_a_personal_store_is_its_users_own(daemon: Daemon) -> None:
    """0600 in a directory of 0700; found by <root>/socket; both are gone when it has ended."""
    daemon.start(start_new_session=True)
    path = Path(daemon.socket)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.parent == daemon.directory / "envmgr"
    assert f"listening on {path}" in daemon.words
    assert daemon.stop() == 0
    assert not path.exists()
    assert not (daemon.root / "socket").is_symlink()


@pytest.mark.parametrize("group", [None, "daemon"])
def test_the_socket_of_a_service_has_the_mode_of_its_group(tmp_path: Path, group: str | None) -> None:
    """0666, or 0660 with use_group, in a directory that everybody can search."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to give a socket to a group")
    opening.open_for_writing(tmp_path / "store", "service")
    with running(tmp_path, "" if group is None else f'use_group = "{group}"\n') as daemon:
        status = Path(daemon.socket).stat()
        assert stat.S_IMODE(status.st_mode) == (0o666 if group is None else 0o660)
        assert stat.S_IMODE(Path(daemon.socket).parent.stat().st_mode) == 0o755
        assert (status.st_gid != 0) == (group is not None)


def test_a_directory_of_somebody_elses_is_not_used(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A directory in the way that others can change is left alone; the link leads to another place."""
    (tmp_path / "envmgr").mkdir(mode=0o777)
    (tmp_path / "envmgr").chmod(0o777)
    elsewhere = tmp_path_factory.mktemp("t")  # short: the path of a socket is bounded
    with contextlib.closing(Daemon(tmp_path, environ={"TMPDIR": str(elsewhere)})) as daemon:
        daemon.start(start_new_session=True)
        assert Path(daemon.socket).parent.parent == elsewhere
        assert stat.S_IMODE(Path(daemon.socket).parent.stat().st_mode) == 0o700


def test_a_chosen_socket(tmp_path: Path) -> None:
    """ENVMGR_SOCKET says where; no link is needed."""
    path = str(tmp_path / "here")
    with running(tmp_path, environ={"ENVMGR_SOCKET": path}) as daemon, Client(path) as client:
        assert client.ask("GET", "/v1/status").data["pid"] == daemon.pid


def test_there_is_one_daemon_of_a_store(daemon: Daemon) -> None:
    """A second one is refused, named the first, and takes nothing from it."""
    daemon.start()
    assert code_of(daemon.fork()) == 7
    assert f"another daemon serves the store {daemon.root}: pid {daemon.pid}" in daemon.words
    with daemon.client() as client:
        assert client.ask("GET", "/v1/status").data["pid"] == daemon.pid


def test_a_place_where_somebody_listens_is_not_taken(tmp_path: Path) -> None:
    """Two stores whose daemons are to listen on one socket: the second one does not begin."""
    chosen = {"ENVMGR_SOCKET": str(tmp_path / "here")}
    (tmp_path / "other").mkdir()
    with running(tmp_path, environ=chosen):
        other = Daemon(tmp_path / "other", environ=chosen)
        try:
            assert code_of(other.fork()) == 7
            assert "listens on" in other.words
        finally:
            other.close()


def test_sockets_of_the_service_manager_are_used(daemon: Daemon) -> None:
    """LISTEN_FDS: the passed socket is served and neither changed nor removed; its place is linked."""
    path = daemon.directory / "passed"
    with socket.socket(socket.AF_UNIX) as passed:
        passed.bind(str(path))
        path.chmod(0o640)
        passed.listen()
        fd = passed.fileno()
        daemon.start(args=(sys.executable, "-c", ACTIVATE, str(fd), sys.executable, PROGRAM, "daemon"), pass_fds=(fd,))
        assert daemon.socket == str(path)
        with daemon.client() as client:
            assert client.ask("GET", "/v1/status").data["pid"] == daemon.pid
        assert daemon.stop() == 0
        assert stat.S_IMODE(path.stat().st_mode) == 0o640


# ---------------------------------------------------------------------------------------------------- while it runs


def test_it_tells_the_service_manager_how_it_is(tmp_path: Path) -> None:
    """READY with a status, the watchdog's heartbeat, RELOADING and READY at SIGHUP, STOPPING at the end."""
    with running(tmp_path, environ={"WATCHDOG_USEC": "400000"}) as daemon:
        daemon.wait_told("WATCHDOG=1")
        daemon.wait_told("WATCHDOG=1")
        daemon.send(signal.SIGHUP)
        assert any(line.startswith("MONOTONIC_USEC=") for line in daemon.wait_told("RELOADING=1"))
        daemon.wait_told("READY=1")
        daemon.send(signal.SIGTERM)
        daemon.wait_told("STOPPING=1")


def test_the_builder_knows_nothing_of_the_service_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a service manager passes is the daemon's alone: NOTIFY_SOCKET and its like are not inherited."""
    for key, value in {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "5", "LISTEN_FDS": "1", "LISTEN_PID": "1"}.items():
        monkeypatch.setenv(key, value)
    systemd.Notifier()
    assert systemd.inherited_sockets() == ()
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID"} & set(os.environ)


def test_reload(daemon: Daemon) -> None:
    """SIGHUP: new settings count; wrong ones are complained of, and the old ones stay."""
    daemon.start()
    settings = daemon.root / "settings.toml"
    old = settings.read_text()
    settings.write_text(f"{old}max_connections_per_user = 1\n")
    daemon.send(signal.SIGHUP)
    daemon.wait_told("READY=1")
    settings.write_text(f"{old}max_connections_per_user = nonsense\n")
    daemon.send(signal.SIGHUP)
    daemon.wait_told("READY=1")
    assert "could not be read again" in daemon.words
    assert "settings.toml is not TOML" in daemon.words
    assert "Traceback" not in daemon.words
    with daemon.client() as first, daemon.client() as second:
        assert first.ask("GET", "/v1/health/live").status == 200
        assert second.ask("GET", "/v1/health/live").error(429)["fields"]["setting"] == "max_connections_per_user"


def test_at_rest_it_sleeps_and_is_small(daemon: Daemon) -> None:
    """As its users start it, and after it was asked a few things: at most 80 MB, and nothing runs."""
    daemon.start(args=(sys.executable, "-m", "envmgr", "daemon"))
    with daemon.client() as client:
        for path in ("/v1/status", "/v1/environments", "/openapi.json"):
            assert client.ask("GET", path).status == 200
    process = psutil.Process(daemon.pid)
    before = process.cpu_times(), process.num_ctx_switches()
    # Nothing will ever be said; this is how time passes at rest, and any amount of it will do.
    daemon.hear_nothing(1.0)
    after = process.cpu_times(), process.num_ctx_switches()
    assert after[0].user + after[0].system - before[0].user - before[0].system <= 0.02
    assert after[1].voluntary - before[1].voluntary <= 20
    assert process.memory_info().rss <= 80_000_000


# --------------------------------------------------------------------------------------------------------- its end


def test_sigterm_drains(daemon: Daemon) -> None:
    """Nothing new is begun, what is ready is still given, the build that runs ends, its followers hear it; exit 0."""
    daemon.start()
    ready = daemon.made("numpy")
    operation = begin_build(daemon, "draining")
    with daemon.client() as follower, daemon.client() as other:
        stream = follower.events(operation)
        next(stream)
        daemon.send(signal.SIGTERM)
        daemon.wait_told("STOPPING=1")
        assert other.ask("GET", "/v1/health/ready").error(503)["code"] == "daemon"
        assert other.ask("GET", "/v1/health/live").data == {"status": "draining"}
        assert other.ask("GET", "/v1/status").data["is_draining"] is True
        refused = other.ask("POST", "/v1/environments", {"spec": spec("new")}).error(503)
        assert (refused["code"], refused["is_transient"]) == ("daemon", True)
        assert other.ask("POST", "/v1/environments", {"name": ready}).status == 200
        daemon.orders.release()
        *_, (_, event, end) = stream
        assert (event, end["state"]) == ("end", "succeeded")
    assert daemon.wait() == 0
    assert "Traceback" not in daemon.words


def test_a_second_sigterm_hurries(daemon: Daemon) -> None:
    """The build that runs is cancelled at once, and its followers hear it."""
    daemon.start()
    operation = begin_build(daemon, "hurried")
    with daemon.client() as follower:
        stream = follower.events(operation)
        next(stream)
        daemon.send(signal.SIGTERM)
        daemon.wait_told("STOPPING=1")
        assert daemon.stop() == 0
        *_, (_, event, end) = stream
        assert (event, end["state"]) == ("end", "cancelled")
    assert "Traceback" not in daemon.words


def test_whom_a_lease_was_handed_over_has_time_to_take_his(daemon: Daemon) -> None:
    """A daemon that stops keeps a connection with a lease open until its client has ended it."""
    daemon.start()
    name = daemon.made("numpy")
    with daemon.client() as client:
        assert client.ask("POST", "/v1/environments", {"name": name}).status == 200
        daemon.send(signal.SIGTERM)
        daemon.wait_told("STOPPING=1")
        assert not select.select([client.sock], [], [], 0.2)[0]
    assert daemon.wait() == 0


def test_killed_while_clients_wait(daemon: Daemon) -> None:
    """SIGKILL in a build: each client's connection ends, a new daemon serves a whole store, and makes it after all."""
    daemon.start()
    ready = daemon.made("numpy")
    operation = begin_build(daemon, "killed")
    with contextlib.ExitStack() as stack:
        streams = []
        for _ in range(20):
            streams.append(stack.enter_context(daemon.client()).events(operation))
            next(streams[-1])
        daemon.stop(signal.SIGKILL)
        for stream in streams:
            assert not any(event == "end" for _, event, _ in ended(stream))
    daemon.orders.release_nobody()
    daemon.start()
    with daemon.client() as client:
        assert client.ask("GET", f"/v1/operations/{operation}").error(404)["code"] == "not_found"
        assert client.ask("POST", "/v1/environments", {"name": ready}).status == 200
        answer = client.ask("POST", "/v1/environments", {"spec": spec("killed")}).data
        assert end_of(client, answer["operation"]["id"])["state"] == "succeeded"
    assert daemon.stop() == 0
    whole = sorted(os.readlink(daemon.root / "envs" / name).split("/")[2] for name in os.listdir(daemon.root / "envs"))
    assert sorted(os.listdir(daemon.root / "builds")) == whole
    assert os.listdir(daemon.root / "trash") == []


def ended(stream: Iterator[tuple[int, str, object]]) -> Iterator[tuple[int, str, object]]:
    """Give what still comes on a stream that breaks off."""
    with contextlib.suppress(OSError, http.client.IncompleteRead):
        yield from stream


def test_a_killed_daemons_socket_is_replaced(daemon: Daemon) -> None:
    """The socket that a killed one left answers nobody, and the next one takes its place."""
    daemon.start()
    path = daemon.socket
    daemon.stop(signal.SIGKILL)
    with pytest.raises(ConnectionRefusedError):
        connect(path)
    daemon.start()
    assert daemon.socket == path
    with daemon.client() as client:
        assert client.ask("GET", "/v1/health/live").status == 200
