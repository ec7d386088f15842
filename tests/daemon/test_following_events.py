"""Many callers, one build: following it, losing the connection, cancelling it, and what does not wait for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from served import Client, Daemon, connect, running, spec

CLIENTS = 200
READY_REQUESTS = 1000


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    settings = "max_connections_per_user = 3000\nmax_builds = 1\n"
    with running(tmp_path_factory.mktemp("following"), settings) as found:
        yield found


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client() as found:
        yield found


@contextlib.contextmanager
def building(daemon: Daemon, client: Client, *requirements: str, is_cancelled: bool = False) -> Iterator[str]:
    """Have a build stand in its middle for the length of the block, or until it is cancelled; give its operation."""
    daemon.orders.hang()
    try:
        answer = client.ask("POST", "/v1/environments", {"spec": spec(*requirements)}).data
        daemon.orders.wait_started()
        yield answer["operation"]["id"]
    finally:
        if is_cancelled:
            daemon.orders.release_nobody()
        else:
            daemon.orders.release()


def states(events: list[tuple[int, str, dict[str, object]]]) -> list[object]:
    return [data["state"] for _, event, data in events if event != "progress"]


def test_two_hundred_clients_share_one_build(daemon: Daemon, client: Client) -> None:
    """Whoever asks for the same environment meanwhile gets the same operation, and each hears its end."""
    before = len(daemon.begun())
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(daemon.client()) for _ in range(CLIENTS)]
        with building(daemon, client, "shared") as operation:
            for one in clients:
                found = one.ask("POST", "/v1/environments", {"spec": spec("shared")}).data["operation"]
                assert found["id"] == operation
            streams = [one.events(operation) for one in clients]
            assert all(next(stream)[0] == 1 for stream in streams)
            assert client.ask("GET", f"/v1/operations/{operation}").data["waiters"] == CLIENTS
        ends = [list(stream)[-1] for stream in streams]
        assert {(event, end["state"]) for _, event, end in ends} == {("end", "succeeded")}
        assert len({end["result"]["ready"]["build_id"] for _, _, end in ends}) == 1
    assert len(daemon.begun()) == before + 1


def test_what_is_ready_does_not_wait_for_a_build(daemon: Daemon, client: Client) -> None:
    """A thousand requests for what is ready are all answered while a build stands still."""
    name = daemon.made("numpy")
    with building(daemon, client, "slow") as operation:
        for number in range(READY_REQUESTS):
            wish = {"name": name} if number % 2 else {"spec": spec("numpy")}
            assert client.ask("POST", "/v1/environments", wish).status == 200
        assert client.ask("GET", f"/v1/operations/{operation}").data["state"] == "running"


def test_a_broken_stream_is_resumed_without_a_gap(daemon: Daemon, client: Client) -> None:
    """Behind Last-Event-ID comes the next event, whatever happened meanwhile; no number is missing or comes twice."""
    with daemon.client() as follower:
        with building(daemon, client, "resumed") as operation:
            stream = follower.events(operation)
            first = [next(stream), next(stream)]
            follower.close()
            stream = follower.events(operation, after=first[-1][0])
            second = [next(stream)]
            follower.close()
        rest = list(follower.events(operation, after=second[-1][0]))
        whole = list(follower.events(operation))
    assert [number for number, _, _ in first + second + rest] == list(range(1, len(whole) + 1))
    assert [event for _, event, _ in first + second + rest] == [event for _, event, _ in whole]
    assert rest[-1][1] == "end"


def test_a_stream_behind_the_end_ends_at_once(daemon: Daemon, client: Client) -> None:
    """Who has heard the end already hears nothing more, and waits for nothing."""
    with building(daemon, client, "behind") as operation:
        pass
    with daemon.client() as follower:
        *_, (last, _, _) = follower.events(operation)
        assert list(follower.events(operation, after=last)) == []
        assert list(follower.events(operation, after=10**15)) == []


def test_a_wrong_last_event_id_is_refused(daemon: Daemon, client: Client) -> None:
    """It is the number of an event, or nothing."""
    with building(daemon, client, "wrong") as operation:
        for word in ("x", "-1", "1.5", "9" * 30):
            answer = client.ask("GET", f"/v1/operations/{operation}/events", **{"Last-Event-ID": word})
            assert answer.error(400)["code"] == "usage"


def test_who_went_away_is_no_waiter(daemon: Daemon, client: Client) -> None:
    """A stream that was cut is counted as gone at once, in the middle of a build that says nothing."""
    with building(daemon, client, "left") as operation, daemon.client() as stays:
        with connect(daemon.socket) as goes:
            request = f"GET /v1/operations/{operation}/events HTTP/1.1\r\nHost: x\r\n\r\n"
            goes.sendall(request.encode())
            goes.recv(100)
            assert stays.ask("GET", f"/v1/operations/{operation}").data["waiters"] == 1
        while stays.ask("GET", f"/v1/operations/{operation}").data["waiters"]:
            pass  # the end of a connection and a request on another may be seen in either order


def test_cancel_in_every_state(daemon: Daemon, client: Client) -> None:
    """A queued one ends at once, a running one soon, a finished one stays as it is; each listener hears it."""
    with daemon.client() as follower:
        with building(daemon, client, "running", is_cancelled=True) as running_one:
            queued = client.ask("POST", "/v1/environments", {"spec": spec("queued")}).data["operation"]
            assert (queued["state"], queued["position"]) == ("queued", 1)
            client.ask("DELETE", f"/v1/operations/{queued['id']}")
            events = list(follower.events(queued["id"]))
            assert states(events) == ["queued", "cancelled"]
            assert events[-1][2]["error"]["code"] == "cancelled"
            assert client.ask("DELETE", f"/v1/operations/{running_one}").status == 200
            assert states(list(follower.events(running_one))) == ["queued", "running", "cancelled"]
        finished = client.ask("POST", "/v1/environments", {"spec": spec("finished")}).data["operation"]["id"]
        *_, (_, _, end) = follower.events(finished)
        assert client.ask("DELETE", f"/v1/operations/{finished}").data == {**end, "waiters": 0}
    assert daemon.made("queued").startswith("env-")


def test_the_lease_is_held_on_the_connection(daemon: Daemon) -> None:
    """What was answered as ready cannot be removed until the connection ends or asks for something else."""
    name = daemon.made("held")
    with daemon.client() as user, daemon.client() as admin:
        user.ask("POST", "/v1/environments", {"name": name})
        error = admin.ask("DELETE", f"/v1/environments/{name}").error(409)
        assert error["code"] == "in_use"
        user.ask("GET", "/v1/health/live")
        assert admin.ask("DELETE", f"/v1/environments/{name}").status == 200
