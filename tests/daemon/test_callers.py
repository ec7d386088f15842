"""Who may do what: users of the host by what the kernel says, others by tokens; every refusal names its rule."""

from __future__ import annotations

import contextlib
import grp
import hashlib
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from fakes.clock import FakeClock
from fakes.processes import Forked
from served import OTHER_UID, Client, Daemon, Reply, code_of, running, spec

from envmgr.daemon.peers import Callers, Groups, Peer, of_socket
from envmgr.daemon.tokens import Tokens
from envmgr.errors import PermissionRefused, UsageError
from envmgr.store import opening

T = TypeVar("T")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be other users")
TOKENS = {"reader": ("use", "s3cret-of-reader"), "operator": ("admin", "s3cret-of-operator")}


def as_user(work: Callable[[], T], groups: tuple[int, ...] = ()) -> T:
    """Do something as another user of this host, with these groups."""

    def work_as() -> T:
        os.setgroups(groups)
        os.setgid(OTHER_UID)
        os.setuid(OTHER_UID)
        return work()

    return Forked(work_as).result()


def passable(directory: Path) -> Path:
    """Let every user search the way to a directory."""
    for one in (directory, *directory.parents):
        if not one.stat().st_mode & 0o001:
            one.chmod(one.stat().st_mode | 0o011)
    return directory


def group(number: int = 0) -> grp.struct_group:
    """Return a group of this host that nobody here is in."""
    return [one for one in grp.getgrall() if 0 < one.gr_gid < 1000 and not one.gr_mem][number]


# --------------------------------------------------------------------------------------------------- users of this host


@needs_root
def test_a_user_of_a_high_number() -> None:
    """The numbers of users and groups are unsigned: those of containers' users may be above 2**31."""
    high = 3_000_000_001

    def work() -> tuple[int, bool]:
        os.setgroups(())
        os.setgid(high)
        os.setuid(high)
        with contextlib.ExitStack() as stack:
            one, _ = map(stack.enter_context, socket.socketpair(socket.AF_UNIX))
            peer = of_socket(one)
        return (peer.uid, high in peer.groups) if peer else (-1, False)

    try:
        found = Forked(work).result()
    except OSError:
        pytest.skip("this user namespace has no such number")
    assert found == (high, True)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A store of a service's kind that every user of the host may use."""
    directory = passable(tmp_path_factory.mktemp("service"))
    opening.open_for_writing(directory / "store", "service")
    with running(directory, f'admin_group = "{group().gr_name}"\nallowed_channels = ["conda-forge"]\n') as daemon:
        yield daemon


@needs_root
def test_another_user_may_use_and_not_change(service: Daemon) -> None:
    """He gets what is allowed made, looks at everything, and is told which rule keeps him from the rest."""
    name = service.made("numpy")

    def asks() -> list[Reply]:
        with service.client() as client:
            return [
                client.ask("GET", "/v1/status"),
                client.ask("POST", "/v1/environments", {"name": name}),
                client.ask("GET", f"/v1/environments/{name}"),
                client.ask("POST", "/v1/environments", {"spec": spec("pandas")}),
                client.ask("DELETE", f"/v1/environments/{name}"),
                client.ask("PUT", f"/v1/environments/{name}/pin"),
                client.ask("POST", f"/v1/environments/{name}/relock", {}),
                client.ask("POST", "/v1/collections", {}),
                client.ask(
                    "POST",
                    "/v1/environments",
                    {"spec": {"text": "channels: [elsewhere]\ndependencies: [x]\n", "includes": {}}},
                ),
            ]

    status, ready, shown, made, *refused = as_user(asks)
    assert status.data["role"] == "use"
    assert ready.data["ready"]["name"] == shown.data["name"] == name
    assert made.data["operation"]["by"] == "nobody"
    for reply in refused:
        error = reply.error(403)
        assert error["code"] in ("permission", "policy")
        assert error["fields"]["rule"]


@needs_root
def test_members_of_the_admin_group_may_change(service: Daemon) -> None:
    """A supplementary group of the caller's makes him an admin."""
    name = service.made("scipy")

    def asks() -> list[Reply]:
        with service.client() as client:
            return [client.ask("GET", "/v1/status"), client.ask("DELETE", f"/v1/environments/{name}")]

    status, removed = as_user(asks, (group().gr_gid,))
    assert status.data["role"] == "admin"
    assert removed.data["is_deleted"] is True


@needs_root
def test_a_user_may_cancel_what_only_he_asked_for(service: Daemon) -> None:
    """His own operation he may end, another's he may not."""
    service.orders.hang()
    with service.client() as owner:
        operation = owner.ask("POST", "/v1/environments", {"spec": spec("owned")}).data["operation"]["id"]
        service.orders.wait_started()

        def asks() -> list[Reply]:
            with service.client() as client:
                mine = client.ask("POST", "/v1/environments", {"spec": spec("mine")}).data["operation"]["id"]
                service.orders.wait_started()
                return [
                    client.ask("DELETE", f"/v1/operations/{operation}"),
                    client.ask("DELETE", f"/v1/operations/{mine}"),
                ]

        others, own = as_user(asks)
        assert others.error(403)["fields"]["rule"]
        assert own.status == 200
        assert owner.ask("DELETE", f"/v1/operations/{operation}").status == 200
    service.orders.release_nobody()


@needs_root
def test_who_is_not_in_the_use_group_does_not_get_in(tmp_path: Path) -> None:
    """The kernel keeps him out (0660), and members in; the daemon would refuse him, too."""
    opening.open_for_writing(passable(tmp_path) / "store", "service")
    with running(tmp_path, f'use_group = "{group(1).gr_name}"\n') as daemon:

        def asks() -> Reply:
            with daemon.client() as client:
                return client.ask("GET", "/v1/status")

        with pytest.raises(PermissionError):
            as_user(asks)
        assert as_user(asks, (group(1).gr_gid,)).data["role"] == "use"
        os.chmod(daemon.socket, 0o666)
        error = as_user(asks).error(403)
        assert (error["code"], error["fields"]) == ("permission", {"rule": "use-group", "setting": "use_group"})


def test_what_a_peer_is_is_looked_up_once_in_a_while() -> None:
    """`known` never asks the host; what was found counts for a minute, or until it is forgotten."""
    clock = FakeClock()
    callers = Callers(12345, lambda: Groups(use=None, admin=None), clock)
    peer = Peer(pid=7, uid=12345, groups=frozenset({12345}))
    assert callers.known(peer) is None
    found = callers.look_up(peer)
    assert not isinstance(found, PermissionRefused)
    assert (found.role, found.user, found.uid, found.pid) == ("admin", "12345", 12345, 7)
    known = callers.known(Peer(pid=8, uid=12345, groups=frozenset({12345})))
    assert not isinstance(known, PermissionRefused)
    assert known is not None
    assert known.pid == 8
    clock.now += 61
    assert callers.known(peer) is None
    callers.look_up(peer)
    callers.forget()
    assert callers.known(peer) is None


# ------------------------------------------------------------------------------------------------------------- tokens


def tokens_file(directory: Path) -> Path:
    path = directory / "tokens"
    digests = {name: (role, hashlib.sha256(token.encode()).hexdigest()) for name, (role, token) in TOKENS.items()}
    path.write_text("# who\n\n" + "".join(f"{name} {role} {digest}\n" for name, (role, digest) in digests.items()))
    path.chmod(0o640)
    return path


def bearing(daemon: Daemon, token: str | None, tls: ssl.SSLContext | None = None) -> Client:
    """Return a client over TCP that brings a token."""
    host, _, port = daemon.address.rpartition(":")
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    return Client((host, int(port)), headers, tls)


@pytest.fixture
def over_tcp(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path, f'listen = "127.0.0.1:0"\ntokens_file = "{tokens_file(tmp_path)}"\n') as daemon:
        yield daemon


def test_over_tcp_a_token_says_who_asks(over_tcp: Daemon) -> None:
    """No token, a wrong one and half a right one are 401; the right ones have their roles; health is open to all."""
    reader, operator = (token for _, token in TOKENS.values())
    for wrong in (None, "", "wrong", reader[:-1], hashlib.sha256(reader.encode()).hexdigest()):
        with bearing(over_tcp, wrong) as client:
            for path in ("/v1/status", "/v1/environments/../../etc", "/openapi.json", "/metrics", "/nowhere"):
                reply = client.ask("GET", path)
                assert reply.error(401)["code"] == "unauthenticated"
                assert reply.headers["www-authenticate"] == "Bearer"
            assert client.ask("GET", "/v1/health/live").status == 200
    with bearing(over_tcp, reader) as client:
        assert client.ask("GET", "/v1/status").data["role"] == "use"
        answer = client.ask("POST", "/v1/environments", {"spec": spec("numpy")}).data["operation"]
        assert answer["by"] == "token:reader"
        *_, (_, event, _) = client.events(answer["id"])
        assert event == "end"
        assert client.ask("DELETE", f"/v1/environments/{answer['name']}").error(403)["fields"]["rule"]
    with bearing(over_tcp, operator) as client:
        assert client.ask("DELETE", f"/v1/environments/{answer['name']}").status == 200
    assert reader not in over_tcp.words


def test_a_changed_file_counts_at_once(over_tcp: Daemon) -> None:
    """A token that was taken out lets nobody in any more; a file that others may read lets nobody in at all."""
    reader, operator = (token for _, token in TOKENS.values())
    path = over_tcp.directory / "tokens"
    with bearing(over_tcp, reader) as client, bearing(over_tcp, operator) as other:
        assert client.ask("GET", "/v1/status").status == 200
        path.write_text("".join(line for line in path.read_text().splitlines(True) if "reader" not in line))
        assert client.ask("GET", "/v1/status").status == 401
        assert other.ask("GET", "/v1/status").status == 200
        path.chmod(0o644)
        path.write_text(path.read_text() + "\n")
        assert other.ask("GET", "/v1/status").status == 401
        assert "nobody gets in over TCP" in over_tcp.words


@pytest.mark.parametrize(
    ("text", "mode", "error"),
    [
        ("reader use 1234\n", 0o600, UsageError),
        ("reader root " + "0" * 64 + "\n", 0o600, UsageError),
        ("reader " + "0" * 64 + "\n", 0o600, UsageError),
        ("", 0o644, PermissionRefused),
        ("", 0o660, PermissionRefused),
        (None, 0o600, UsageError),
    ],
)
def test_files_of_tokens_that_cannot_be_used(
    tmp_path: Path, text: str | None, mode: int, error: type[Exception]
) -> None:
    """The file and the line are named, what stands in it is not."""
    path = tmp_path / "tokens"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    with pytest.raises(error, match="tokens_file") as raised:
        Tokens(path)
    assert "1234" not in str(raised.value)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ('listen = "127.0.0.1:0"\n', "tokens_file"),
        ('listen = "0.0.0.0:0"\ntokens_file = "{tokens}"\n', "loopback"),
        ('listen = "127.0.0.1:0"\ntokens_file = "{tokens}"\ntls_cert_file = "/nonexistent"\n', "tls_cert_file"),
        ('listen = "no.such.host.invalid:0"\ntokens_file = "{tokens}"\n', "cannot listen"),
    ],
)
def test_addresses_that_would_let_anybody_in_are_refused(tmp_path: Path, settings: str, word: str) -> None:
    """Without tokens, or without TLS where others can listen, there is no daemon at all; it says why."""
    daemon = Daemon(tmp_path, settings.format(tokens=tokens_file(tmp_path)))
    try:
        assert code_of(daemon.fork()) == 2
        assert word in daemon.words
        assert not (daemon.root / "socket").is_symlink()
    finally:
        daemon.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl, to make a certificate")
def test_tls(tmp_path: Path) -> None:
    """With a certificate the same is served encrypted, also beyond loopback; plain HTTP gets nothing there."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "1",
         "-subj", "/CN=daemon", "-addext", "subjectAltName=DNS:daemon"],
        check=True, capture_output=True,
    )  # fmt: skip
    settings = (
        f'listen = "0.0.0.0:0"\ntokens_file = "{tokens_file(tmp_path)}"\n'
        f'tls_cert_file = "{certificate}"\ntls_key_file = "{key}"\n'
    )
    with running(tmp_path, settings) as daemon:
        context = ssl.create_default_context(cafile=str(certificate))
        with bearing(daemon, TOKENS["operator"][1], context) as client:
            assert client.ask("GET", "/v1/status").data["role"] == "admin"
        with bearing(daemon, None, context) as client:
            assert client.ask("GET", "/v1/status").status == 401
        with bearing(daemon, TOKENS["operator"][1]) as client, pytest.raises((OSError, ValueError)):
            client.ask("GET", "/v1/status")
        assert daemon.stop() == 0
