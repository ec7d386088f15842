"""Every route over the socket of a real daemon, and what bad input gets: one shape, and no effect on anybody else."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator

import pytest
from served import Client, Daemon, connect, running, spec

from envmgr.errors import BuildFailed

ABSENT = "env-0123456789abcdef"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with running(tmp_path_factory.mktemp("routes")) as found:
        yield found


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Client]:
    with daemon.client() as found:
        yield found


@pytest.fixture(scope="module")
def made(daemon: Daemon) -> str:
    return daemon.made("numpy", "scipy")


def raw(path: str, data: bytes) -> tuple[int, bytes]:
    """Send bytes as they are; return the status and the body of what comes back, until the connection ends."""
    with connect(path) as sock:
        sock.sendall(data)
        received = b""
        while block := sock.recv(1 << 16):
            received += block
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), body


# ---------------------------------------------------------------------------------------------------------- good input


def test_a_new_environment_is_an_operation_and_then_ready(client: Client) -> None:
    """The first to ask gets 202 and follows the operation to its end; the next one gets the same build at once."""
    first = client.ask("POST", "/v1/environments", {"spec": spec("pandas"), "alias": "training"})
    assert first.status == 202
    operation = first.data["operation"]
    assert first.data["ready"] is None
    assert (operation["kind"], operation["name"][:4]) == ("ensure", "env-")
    events = list(client.events(operation["id"]))
    assert [number for number, _, _ in events] == list(range(1, len(events) + 1))
    assert {event for _, event, _ in events} == {"state", "progress", "end"}
    end = events[-1][2]
    assert end["state"] == "succeeded"
    for wish in ({"spec": spec("pandas")}, {"name": operation["name"]}, {"name": "training"}):
        again = client.ask("POST", "/v1/environments", wish)
        assert again.status == 200
        assert again.data == {"ready": end["result"]["ready"], "operation": None}
    assert client.ask("GET", "/v1/aliases").data["aliases"]["training"] == operation["name"]


def test_what_is_there_is_shown(client: Client, made: str) -> None:
    """List, one by name or alias, its log, lockfile and spec, pins and aliases."""
    listed = client.ask("GET", "/v1/environments").data
    assert made in [one["name"] for one in listed["environments"]]
    assert client.ask("GET", f"/v1/environments/{made}").data["state"] == "ready"
    assert "scipy" in client.ask("GET", f"/v1/environments/{made}/lockfile").data["text"]
    assert "numpy" in client.ask("GET", f"/v1/environments/{made}/spec").data["text"]
    assert made in client.ask("GET", f"/v1/environments/{made}/log").data["text"]
    assert client.ask("PUT", f"/v1/environments/{made}/pin").data == {"name": made, "is_pinned": True}
    assert client.ask("DELETE", f"/v1/environments/{made}/pin").data == {"name": made, "is_pinned": False}
    assert client.ask("PUT", "/v1/aliases/science", {"environment": made}).data["aliases"]["science"] == made
    assert client.ask("GET", "/v1/environments/science").data["name"] == made
    client.ask("DELETE", "/v1/aliases/science").data  # noqa: B018 - asserts that it is a good answer
    assert client.ask("GET", "/v1/environments/science").error(404)["code"] == "not_found"


def test_a_spec_is_named_without_being_built(client: Client) -> None:
    """POST /v1/names tells the name, and problems with their places."""
    named = client.ask("POST", "/v1/names", {"spec": spec("polars")}).data
    assert client.ask("GET", f"/v1/environments/{named['name']}").error(404)["code"] == "not_found"
    error = client.ask("POST", "/v1/names", {"spec": {"text": "dependencies: 3\n", "includes": {}}}).error(422)
    assert error["code"] == "invalid_spec"
    assert error["fields"]["problems"][0]["line"] == 1


def test_relock_repair_collect_and_lock_are_operations(client: Client, made: str) -> None:
    """What takes a while is accepted and ends with its own result."""
    for path, wish, key in (
        (f"/v1/environments/{made}/relock", {"exclude_newer": None}, "old_build_id"),
        (f"/v1/environments/{made}/repair", None, "old_build_id"),
        ("/v1/lockfiles", {"spec": spec("attrs")}, "lock_digest"),
        ("/v1/collections", {"dry_run": True}, "collected"),
    ):
        accepted = client.ask("POST", path, wish)
        assert accepted.status == 202, (path, accepted.body)
        *_, (_, _, end) = client.events(accepted.data["operation"]["id"])
        assert end["state"] == "succeeded", end
        assert key in end["result"]
        assert client.ask("GET", f"/v1/operations/{end['id']}").data == {**end, "waiters": 0}


def test_remove(daemon: Daemon, client: Client) -> None:
    """A removed environment is gone, and what it was locked to with it when that is wanted."""
    name = daemon.made("removed")
    assert client.ask("DELETE", f"/v1/environments/{name}?mode=refuse&forget=true").data["is_deleted"] is True
    assert client.ask("GET", f"/v1/environments/{name}").status == 404


def test_the_end_of_a_failed_build_tells_why(daemon: Daemon, client: Client) -> None:
    """A failure crosses the socket as it is; a daemon's own traceback does not."""
    daemon.orders.fail(BuildFailed("no compiler", hint="get one", tool="cc"))
    try:
        operation = client.ask("POST", "/v1/environments", {"spec": spec("broken")}).data["operation"]
        *_, (_, event, end) = client.events(operation["id"])
    finally:
        daemon.orders.withdraw("fail")
    assert (event, end["state"], end["error"]["code"]) == ("end", "failed", "build_failed")
    assert end["error"]["message"] == "no compiler"
    assert "Traceback" not in json.dumps(end)


def test_the_daemon_tells_of_itself(daemon: Daemon, client: Client) -> None:
    """Status, health, metrics and the document of the interface."""
    status = client.ask("GET", "/v1/status").data
    assert (status["pid"], status["role"], status["root"]) == (daemon.pid, "admin", str(daemon.root))
    assert client.ask("GET", "/v1/health/live").data == {"status": "ok"}
    assert client.ask("GET", "/v1/health/ready").data == {"status": "ok"}
    metrics = client.ask("GET", "/metrics")
    assert metrics.headers["content-type"].startswith("text/plain")
    assert b'envmgr_requests_total{method="GET",route="/v1/status",status="200"}' in metrics.body
    document = client.ask("GET", "/openapi.json").document
    assert {"/v1/environments", "/v1/operations/{operation}/events", "/metrics"} <= set(document["paths"])


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b"{", 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b'{"name":"\\ud800"}', 400, "not JSON"),
        (b"", 400, "not JSON"),
        (b"[]", 422, "object"),
        (b"null", 422, "object"),
        (b'{"name":1}', 422, "name"),
        (b'{"name":"x","retry":"true"}', 422, "retry"),
        (b'{"name":"x","bogus":1}', 422, "bogus"),
        (b'{"spec":{"text":"a"}}', 422, "spec.includes"),
        (b'{"spec":{"text":"a","includes":{"a":1}}}', 422, "spec.includes.a"),
        (b"{}", 400, "either"),
        (b'{"name":"x","spec":{"text":"","includes":{}}}', 400, "either"),
        (b'{"name":"../../etc/passwd"}', 400, "environment's name"),
        (b'{"name":"x\\u0000y"}', 400, "environment's name"),
        (b"[" * 100_000, 400, "not JSON"),
    ],
)
def test_malformed_bodies(client: Client, body: bytes, status: int, word: str) -> None:
    """What does not fit is refused with its place, nothing is converted, and the connection lives on."""
    error = client.ask("POST", "/v1/environments", body).error(status)
    assert error["code"] == "usage"
    assert word in json.dumps(error), error
    assert client.ask("GET", "/v1/health/live").status == 200


def test_a_body_of_very_many_keys(client: Client) -> None:
    """Far more keys than any record has are refused unparsed, a long text full of quotes and backslashes is not."""
    for many in (
        json.dumps({"spec": {"text": "", "includes": dict.fromkeys(map(str, range(9000)), 1)}}),
        "[[1]," * 20_000,
    ):
        assert "far more" in client.ask("POST", "/v1/names", many.encode()).error(422)["message"]
    text = "dependencies: [numpy]\n" + '# \\ "quoted\\" \\\\"\n' * 20_000
    assert client.ask("POST", "/v1/names", {"spec": {"text": text, "includes": {}}}).data["is_lockfile"] is False


def test_other_content_types_are_refused(client: Client) -> None:
    """A form is no JSON."""
    answer = client.ask("POST", "/v1/environments", b"a=1", **{"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.error(415)["code"] == "usage"


def test_huge_bodies_are_refused(client: Client) -> None:
    """A body over the limit is 413 for a client that sends before it listens; the connection is good for the next."""
    body = json.dumps({"spec": {"text": "#" * (17 << 20), "includes": {}}}).encode()
    assert client.ask("POST", "/v1/environments", body).error(413)["fields"]["limit_bytes"] == 16 << 20
    assert client.ask("GET", "/v1/health/live").status == 200


def test_a_client_that_waits_for_leave_is_refused_before_it_sends(daemon: Daemon) -> None:
    """Expect: 100-continue with too long a body is answered 413, not 100."""
    with connect(daemon.socket) as sock:
        sock.sendall(
            b"POST /v1/names HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1000000000\r\n\r\n"
        )
        assert sock.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/docs", 404),
        ("GET", "/v1/environments/", 404),
        ("GET", "/v2/environments", 404),
        ("GET", f"/v1/environments/{ABSENT}", 404),
        ("GET", f"/v1/environments/{ABSENT}/log", 404),
        ("GET", "/v1/environments/no-such-alias/lockfile", 404),
        ("GET", "/v1/operations/0123456789abcdef", 404),
        ("GET", "/v1/operations/..%2f..%2fetc/events", 404),
        ("DELETE", "/v1/aliases/no-such-alias", 404),
        ("PATCH", "/v1/environments", 405),
        ("TRACE", "/v1/status", 405),
        ("DELETE", f"/v1/environments/{ABSENT}?mode=perhaps", 422),
        ("DELETE", f"/v1/environments/{ABSENT}?forget=perhaps", 422),
        ("GET", "/v1/environments/..", 400),
        ("GET", "/v1/environments/%2e%2e", 400),
        ("GET", "/v1/environments/..%2f..%2fetc%2fpasswd", 404),
        ("GET", "/v1/environments/a%00b", 400),
        ("GET", "/v1/environments/%ff", 400),
        ("GET", "/v1/environments/-rf", 400),
        ("GET", "/v1/environments/" + "a" * 5000, 400),
        ("PUT", "/v1/environments/%2e%2e/pin", 400),
        ("DELETE", "/v1/environments/%2e%2e", 400),
    ],
)
def test_wrong_routes_methods_and_path_tricks(client: Client, method: str, path: str, status: int) -> None:
    """Nothing but names and aliases leads anywhere, and every refusal has the one shape."""
    error = client.ask(method, path).error(status)
    assert "passwd" not in error["message"]
    if status == 405:
        assert error["code"] == "usage"


def test_a_wrong_method_is_told_all_right_ones(client: Client) -> None:
    """Allow names the methods of every route of this path."""
    assert client.ask("PATCH", f"/v1/environments/{ABSENT}").headers["allow"] == "DELETE, GET"


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/names HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/names HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_not_http_is_told_so(daemon: Daemon, data: bytes) -> None:
    """Bytes that cannot be parsed get 400 in the one shape and the end of the connection."""
    status, body = raw(daemon.socket, data)
    assert status == 400
    assert json.loads(body)["error"]["code"] == "usage"


def test_too_long_a_head_is_refused(daemon: Daemon) -> None:
    """A head without an end is cut off at its limit, whether in one line or in many."""
    for line in (b"a" * (1 << 20), b"X-Filler: " + b"b" * 1000 + b"\r\n"):
        with connect(daemon.socket) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nX-Long: ")
            with contextlib.suppress(OSError):
                for _ in range(1000):
                    sock.sendall(line)
            assert sock.recv(1 << 16).startswith(b"HTTP/1.1 431")


def test_an_upgrade_is_answered_as_an_ordinary_request(daemon: Daemon) -> None:
    """There are no websockets here; the request is served by HTTP/1.1 (RFC 9110, 7.8)."""
    with connect(daemon.socket) as sock:
        sock.sendall(b"GET /v1/health/live HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 200")


def test_pipelined_requests_are_answered_in_order(daemon: Daemon) -> None:
    """Three requests in one go get three answers, in their order."""
    with connect(daemon.socket) as sock:
        requests = [f"GET {path} HTTP/1.1\r\nHost: x\r\n" for path in ("/v1/health/live", "/nothing", "/v1/aliases")]
        sock.sendall("\r\n".join(requests).encode() + b"Connection: close\r\n\r\n")
        answer = b""
        while block := sock.recv(1 << 16):
            answer += block
    assert re.findall(rb"HTTP/1.1 (\d+) ", answer) == [b"200", b"404", b"200"]


def test_nothing_unexpected_was_said(daemon: Daemon) -> None:
    """None of the above was a defect: the daemon logged no incident. The last test of this module."""
    assert "Traceback" not in daemon.words
    assert "incident" not in daemon.words
