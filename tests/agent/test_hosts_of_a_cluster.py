"""Real daemons over a fake backend, hosts of one cluster on loopback, with a real ZooKeeper."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from agent.members import Admin, administrator, member, members
from coordination.polling import until
from daemon.served import Daemon, spec
from fakes.backend import FakeBackend
from fakes.processes import Forked
from fakes.worlds import spec_of
from zookeeper_servers import Servers

from envmgr import ready, wiring
from envmgr.coordination.zookeeper import tree as paths
from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.errors import BuildFailed, DeclaredInCluster
from envmgr.names import EnvName
from envmgr.wire.tree import Host, decode


@pytest.fixture(scope="module")
def own(zookeeper: Servers) -> Endpoint:
    """A tree for the tests of this module."""
    return Endpoint(servers=zookeeper.addresses, root=f"/test-{uuid.uuid4().hex}", session_s=2.0)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, own: Endpoint) -> Iterator[list[Daemon]]:
    """Two hosts, `a` and `b`."""
    with members(tmp_path_factory.mktemp("pair"), own, "a", "b") as found:
        yield found


@pytest.fixture(scope="module")
def admin(own: Endpoint) -> Iterator[Admin]:
    with administrator(own) as found:
        yield found


def _is_there(daemon: Daemon, name: EnvName) -> bool:
    return ready.resolve(str(daemon.root), name) is not None


def _membership(daemon: Daemon) -> dict[str, object]:
    with daemon.client() as client:
        found: dict[str, object] = client.ask("GET", "/v1/status").data["cluster"]
        return found


def test_what_is_declared_comes_to_every_host_and_goes(admin: Admin, pair: list[Daemon]) -> None:
    """One solve, a build on each host, the same lockfile; and when it is removed it goes from both."""
    name = admin.create("numpy", alias="tools")
    found = admin.until_state(name, "ready", "a", "b")
    assert len({row.lock_digest for row in found.rows}) == 1
    assert not any(row.is_drift for row in found.rows)
    for daemon in pair:
        assert _is_there(daemon, name)
        until(lambda daemon=daemon: ready.resolve_alias(str(daemon.root), "tools") == name)  # type: ignore[misc]
        membership = _membership(daemon)
        assert (membership["is_connected"], membership["declared"], membership["problem"]) == (True, 1, None)
    admin.verbs.remove(name)
    until(lambda: not any(_is_there(daemon, name) for daemon in pair))
    until(lambda: not admin.verbs.status().environments)


def test_a_local_caller_and_the_cluster_share_a_build(admin: Admin, pair: list[Daemon]) -> None:
    """Somebody on the host who asks for what the cluster has made there joins that operation."""
    a, _ = pair
    a.orders.hang()
    name = admin.create("shared", hosts=("a",))
    a.orders.wait_started()
    with a.client() as client:
        joined = client.ask("POST", "/v1/environments", {"spec": spec("shared")}).data["operation"]
        assert (joined["by"], joined["name"]) == ("cluster", name)
        progress = until(lambda: admin.session.get(paths.progress("a")))
        assert progress
        a.orders.release()
        *_, (_, event, end) = client.events(joined["id"])
    assert (event, end["state"]) == ("end", "succeeded")
    admin.until_state(name, "ready", "a")
    assert len([build for build in a.begun() if build.startswith(name[len("env-") :][:12])]) == 1


def test_what_is_declared_is_not_removed_by_hand(admin: Admin, pair: list[Daemon]) -> None:
    """The daemon refuses and names the command that removes it everywhere; `gc` leaves it, too."""
    name = admin.create("declared", hosts=("b",))
    admin.until_state(name, "ready", "b")
    with pair[1].client() as client:
        error = client.ask("DELETE", f"/v1/environments/{name}").error(409)
    assert error["code"] == "declared"
    assert "cluster remove" in error["hint"]


def test_one_host_fails_alone_and_tries_again_when_asked(admin: Admin, pair: list[Daemon]) -> None:
    """The other is ready; the failure says why, and a retry of an administrator succeeds."""
    pair[0].orders.fail(BuildFailed("the compiler is missing", hint="install one"))
    name = admin.create("fragile")
    admin.until_state(name, "failed", "a")
    admin.until_state(name, "ready", "b")
    row = admin.row(name, "a")
    assert (row.success, row.code, row.message, row.hint, row.retry_at) == (
        False, "build_failed", "the compiler is missing", "install one", None,
    )  # fmt: skip
    pair[0].orders.withdraw("fail")
    admin.verbs.retry(name, "a")
    admin.until_state(name, "ready", "a", "b")


@pytest.mark.slow
def test_a_rollout_is_one_host_at_a_time(admin: Admin, pair: list[Daemon]) -> None:
    """With one place the second host waits for its turn until the first is done."""
    for daemon in pair:
        daemon.orders.hang()
    name = admin.create("rolling", parallel=1)

    def states() -> dict[str, str]:
        return {row.host: row.state for row in admin.verbs.show(name).rows}

    until(lambda: sorted(states().values()) == ["building", "waiting"])
    first = next(host for host, state in states().items() if state == "building")
    one, other = pair if first == "a" else reversed(pair)
    one.orders.wait_started()
    assert not any(build.startswith(name[4:16]) for build in other.begun())
    one.orders.release()
    admin.until_state(name, "ready", first)
    other.orders.wait_started()
    other.orders.release()
    admin.until_state(name, "ready", "a", "b")


@pytest.mark.slow
def test_a_build_that_hangs_keeps_its_turn_for_as_long_as_a_build_may_last(tmp_path: Path, endpoint: Endpoint) -> None:
    """With one place, and a build that stands still on each host, each has its turn, and its failure says why."""
    with administrator(endpoint) as admin, contextlib.ExitStack() as ends:
        for host in ("slow", "slower"):
            daemon = member(tmp_path / host, endpoint, host, max_build_s=1)
            ends.callback(daemon.close)
            daemon.orders.hang()
            (daemon.orders.directory / "started").unlink()  # nobody waits for their beginning
            daemon.start()
        name = admin.create("hung", parallel=1)
        found = admin.until_state(name, "failed", "slow", "slower")
    assert {row.code for row in found.rows} == {"timed_out"}
    assert all("the longest that a build may take" in str(row.message) for row in found.rows)


def test_a_build_that_is_not_wanted_any_more_ends(admin: Admin, pair: list[Daemon]) -> None:
    """When the environment is removed while a host makes it, that build is cancelled, and nothing of it is left."""
    a, _ = pair
    a.orders.hang()
    name = admin.create("unwanted", hosts=("a",))
    a.orders.wait_started()
    admin.verbs.remove(name)
    until(lambda: name not in {found.name for found in admin.verbs.status().environments})
    a.orders.release_nobody()
    assert not _is_there(a, name)
    with a.client() as client:
        states = {it["name"]: it["state"] for it in client.ask("GET", "/v1/operations").data["operations"]}
    assert states[name] == "cancelled"


def test_relock_is_one_solve_and_a_new_build_on_each_host(admin: Admin, pair: list[Daemon]) -> None:
    """Both hosts come to the next generation, which one of them solved."""
    name = admin.create("relocked")
    before = {row.lock_digest for row in admin.until_state(name, "ready", "a", "b").rows}
    for daemon in pair:
        daemon.orders.say("version", "2.0")
    admin.verbs.relock(name)
    until(lambda: {row.lock_generation for row in admin.verbs.show(name).rows if row.state == "ready"} == {2})
    found = admin.until_state(name, "ready", "a", "b")
    assert len({row.lock_digest for row in found.rows}) == 1
    assert {row.lock_digest for row in found.rows} != before
    assert [info.generation for info in found.lockfiles] in ([1, 2], [2, 1])
    for daemon in pair:
        daemon.orders.withdraw("version")


def test_settings_of_the_cluster_are_every_hosts(admin: Admin, pair: list[Daemon]) -> None:
    """What the cluster shares is in force in each daemon, and in commands on its hosts, while no daemon runs, too."""
    admin.verbs.change_settings({"channel_priority": "flexible"})
    for daemon in pair:
        until(
            lambda daemon=daemon: (  # type: ignore[misc]
                _settings_of(daemon) == ("flexible", "the cluster's settings: channel_priority")
            )
        )


def _settings_of(daemon: Daemon) -> tuple[str, str]:
    """Return what a command on that host has for `channel_priority`, and where it stands."""

    def work() -> tuple[str, str]:
        found = wiring.settings(daemon.root)
        return found.channel_priority, found.source_text("channel_priority")

    return Forked(work).result()


def test_labels_count_from_the_next_reading_of_the_settings(admin: Admin, pair: list[Daemon]) -> None:
    """A host that is given a label gets what is declared for it."""
    a, _ = pair
    name = admin.create("labelled", labels={"zone": "west"})
    settings = a.root / "settings.toml"
    settings.write_text(settings.read_text() + 'host_labels = {zone = "west"}\n')
    a.send(signal.SIGHUP)
    admin.until_state(name, "ready", "a")
    assert [row.host for row in admin.verbs.show(name).rows] == ["a"]


# ----------------------------------------------------------------------------------------------------- coming and going


@pytest.mark.slow
def test_a_killed_daemon_comes_back_as_the_same_host(tmp_path: Path, endpoint: Endpoint) -> None:
    """It waits out its own session, and then takes away what was removed meanwhile; one that stops is gone at once."""
    daemon = member(tmp_path / "a", endpoint, "a")
    with administrator(endpoint) as admin:
        try:
            daemon.start()
            name = admin.create("numpy")
            admin.until_state(name, "ready", "a")
            daemon.stop(signal.SIGKILL)
            admin.verbs.remove(name)
            before = _instance(admin)
            assert before is not None
            daemon.start()
            until(lambda: _instance(admin) not in (None, before))
            until(lambda: not _is_there(daemon, name))
            until(lambda: not admin.verbs.status().environments)
            assert daemon.stop() == 0
            assert admin.session.children(paths.HOSTS) == ()
            assert [host.host for host in admin.verbs.hosts()] == ["a"]
        finally:
            daemon.close()


@pytest.mark.slow
def test_at_rest_a_member_sleeps_and_is_small(tmp_path: Path, endpoint: Endpoint) -> None:
    """As its users start it, connected, with an environment declared: at most 80 MB, and hardly anything runs."""
    daemon = member(tmp_path / "a", Endpoint(servers=endpoint.servers, root=endpoint.root), "a", agent_interval_s=60)
    with administrator(endpoint) as admin:
        admin.create("numpy", hosts=("b",))
        try:
            daemon.start(args=(sys.executable, "-m", "envmgr", "daemon"))
            until(lambda: _instance(admin))
            with daemon.client() as client:
                for path in ("/v1/status", "/v1/environments", "/openapi.json"):
                    assert client.ask("GET", path).status == 200
            process = psutil.Process(daemon.pid)
            before = process.cpu_times(), process.num_ctx_switches()
            daemon.hear_nothing(2.0)  # how time passes at rest; any amount of it will do
            after = process.cpu_times(), process.num_ctx_switches()
            used_s = after[0].user + after[0].system - before[0].user - before[0].system
            assert used_s <= 0.02
            assert after[1].voluntary - before[1].voluntary <= 40
            assert process.memory_info().rss <= 80_000_000
        finally:
            daemon.close()


def _instance(admin: Admin) -> str | None:
    node = admin.session.get(paths.host("a"))
    return None if node is None else decode(Host, node.data, "host").instance


@pytest.mark.slow
def test_without_zookeeper_the_daemon_serves(tmp_path: Path) -> None:
    """It starts, tells that it is not connected, makes what it may, and stops, none of it held up by who is away."""
    nobody = Endpoint(servers=("127.0.0.1:9",), root="/nowhere", session_s=2.0)
    daemon = member(
        tmp_path / "a", nobody, "a", solve_without_coordinator="true", coordinator_wait_s=0.5, agent_interval_s=60
    )
    try:
        began = time.monotonic()
        daemon.start()
        assert _membership(daemon)["is_connected"] is False
        assert time.monotonic() - began < 10
        assert daemon.made("numpy")
        assert daemon.stop() == 0
        assert time.monotonic() - began < 30
    finally:
        daemon.close()


def test_a_command_without_a_daemon_is_of_the_cluster(tmp_path: Path, endpoint: Endpoint) -> None:
    """It knows what is declared without asking, and what it solves is the cluster's."""
    daemon = member(tmp_path / "a", endpoint, "a")
    with administrator(endpoint) as admin:
        try:
            daemon.start()
            name = admin.create("numpy")
            admin.until_state(name, "ready", "a")
            assert daemon.stop() == 0
        finally:
            daemon.close()

        def remove() -> str:
            manager = wiring.manager(str(daemon.root), backend=FakeBackend(daemon.orders.directory))
            try:
                manager.remove(name)
            except DeclaredInCluster as error:
                return error.code
            return "removed"

        def make() -> str:
            manager = wiring.manager(str(daemon.root), backend=FakeBackend(daemon.orders.directory))
            with contextlib.closing(manager.ensure(spec_of("scipy"), timeout_s=20).lease) as lease:
                return lease.name

        assert Forked(remove).result() == "declared"
        made = EnvName(Forked(make).result())
        assert admin.session.children(paths.classes(made))
