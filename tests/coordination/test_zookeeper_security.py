"""Who may see and write the cluster's tree, asked of a real ZooKeeper: by password, by certificate, by both."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from coordination.certificates import Authority, Certificate
from coordination.polling import until
from kazoo.client import KazooClient
from kazoo.exceptions import NoAuthError
from link_proxy import LinkProxy
from zookeeper_servers import Servers

from envmgr import settings
from envmgr.coordination.zookeeper import endpoint as endpoint_
from envmgr.coordination.zookeeper import tree
from envmgr.coordination.zookeeper.claims import Claims
from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.session import Create, Put, Session
from envmgr.errors import CoordinatorUnavailable, EnvmgrError, PermissionRefused, UsageError

PASSWORD = ("envmgr", "s3cret:with:colons")


@dataclass(frozen=True)
class Secure:
    """A server that takes only clients with certificates of its authority."""

    address: str
    plain: str
    authority: Authority
    hosts: tuple[Certificate, Certificate]
    directory: Path

    def endpoint(self, root: str, host: int | None, *, auth: tuple[str, str] | None = None) -> Endpoint:
        certificate = None if host is None else self.hosts[host]
        return Endpoint(
            servers=(self.address,),
            root=root,
            session_s=4.0,
            auth=auth,
            ca_file=str(self.authority.ca),
            cert_file=None if certificate is None else str(certificate.cert),
            key_file=None if certificate is None else str(certificate.key),
        )


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    """One such server, and certificates of two hosts."""
    directory = tmp_path_factory.mktemp("certificates")
    authority = Authority(directory)
    own, hosts = authority.sign("server"), (authority.sign("host-a"), authority.sign("host-b"))
    port = free_port()
    lines = (
        f"secureClientPort={port}",
        "secureClientPortAddress=127.0.0.1",
        "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory",
        f"ssl.keyStore.location={own.both}",
        "ssl.keyStore.type=PEM",
        f"ssl.trustStore.location={authority.ca}",
        "ssl.trustStore.type=PEM",
        "ssl.clientAuth=need",
        "authProvider.1=org.apache.zookeeper.server.auth.X509AuthenticationProvider",
    )
    with Servers(1, lines=lambda _number: lines) as servers:
        yield Secure(f"127.0.0.1:{port}", servers.addresses[0], authority, hosts, directory)


@contextlib.contextmanager
def session(endpoint: Endpoint, timeout_s: float = 10.0) -> Iterator[Session]:
    """Run a session for the length of a block."""
    made = Session(endpoint)
    made.start(timeout_s)
    try:
        yield made
    finally:
        made.close()


class TestPassword:
    """The scheme digest."""

    def test_nobody_without_the_password_sees_or_writes_anything(self, endpoint: Endpoint) -> None:
        """Every node that is made, parents and those of claims included, is closed to strangers."""
        with session(replace(endpoint, auth=PASSWORD)) as inside:
            tree.found(inside)
            inside.create(tree.status("host-a"), b"status")
            inside.create(tree.host("host-a"), is_ephemeral=True)
            claims = Claims(inside, "host-a")
            with claims.acquire(tree.build_claim("store", "env-0"), timeout_s=5) as claim:
                nodes = (tree.CLUSTER, tree.STATUS, tree.status("host-a"), tree.CLAIMS, claim.node)
                for auth in (None, ("envmgr", "wrong"), ("other", PASSWORD[1])):
                    with session(replace(endpoint, auth=auth)) as stranger:
                        for node in nodes:
                            for attempt in (stranger.get, stranger.children, stranger.delete):
                                with pytest.raises(PermissionRefused) as refused:
                                    attempt(node)
                                assert "zookeeper_auth_file" in str(refused.value.hint)
                        for write in (
                            lambda: stranger.put(tree.CLUSTER, b""),
                            lambda: stranger.create(tree.host("mine")),
                            lambda: stranger.write([Create(tree.host("mine"))]),
                            lambda: stranger.write([Put(tree.CLUSTER, b"")]),
                        ):
                            with pytest.raises(PermissionRefused):
                                write()
                assert not claim.is_lost

    def test_all_who_know_the_password_share_the_tree(self, endpoint: Endpoint) -> None:
        """It is one password for all hosts: they are told from strangers, not from each other."""
        known = replace(endpoint, auth=PASSWORD)
        with session(known) as one, session(known) as two:
            assert tree.found(one).uuid == tree.found(two).uuid
            one.create(tree.status("host-a"), b"by a")
            assert two.put(tree.status("host-a"), b"by b").version == 1

    def test_no_node_and_no_repr_holds_the_password(self, endpoint: Endpoint, zookeeper: Servers) -> None:
        """What can be read in the tree, its access lists and what we print are free of it."""
        known = replace(endpoint, auth=PASSWORD)
        assert PASSWORD[1] not in repr(known)
        with session(known) as one:
            tree.found(one)
            with Claims(one, "host-a").acquire(tree.solve_claim("env-0", "linux-64"), timeout_s=5):
                client = KazooClient(zookeeper.connect, auth_data=[("digest", ":".join(PASSWORD))])
                client.start()
                seen = list(everything(client, endpoint.root))
                client.stop()
                client.close()
        assert len(seen) > 5
        assert not [text for text in seen if PASSWORD[1] in text]


class TestCertificates:
    """TLS with client certificates, the scheme x509."""

    def test_a_host_with_a_certificate_gets_in_and_others_do_not(self, secure: Secure, tree_root: str) -> None:
        """No certificate, one of another authority, no TLS at all: there is no connection, and it is said why."""
        stranger = Authority(secure.directory, "stranger")
        foreign = stranger.sign("host-a")
        good = secure.endpoint(tree_root, 0)
        with session(good) as host:
            assert host.is_connected
            tree.found(host)
        with contextlib.ExitStack() as ends:
            distrusting, *others = [
                ends.enter_context(session(bad, 0.0))
                for bad in (
                    replace(good, ca_file=str(stranger.ca)),
                    secure.endpoint(tree_root, None),
                    replace(good, cert_file=str(foreign.cert), key_file=str(foreign.key)),
                    replace(good, ca_file=None, cert_file=None, key_file=None),
                )
            ]
            until(lambda: distrusting.problem)
            assert "certificate verify failed" in str(distrusting.problem)
            assert not distrusting.wait_connected(1.0)
            assert not any(refused.is_connected for refused in others)  # which have had that second, too

    def test_the_servers_name_is_checked(self, secure: Secure, tree_root: str) -> None:
        """A certificate of our authority, but for another machine, is not the server's."""
        port = secure.address.rpartition(":")[2]
        elsewhere = replace(secure.endpoint(tree_root, 0), servers=(f"localhost:{port}",))
        with session(elsewhere, 0.0) as refused:
            until(lambda: refused.problem)
            assert "mismatch" in str(refused.problem) or "not valid for" in str(refused.problem)
            assert not refused.is_connected

    def test_hosts_of_one_subject_share_the_tree_and_others_do_not(self, secure: Secure, tree_root: str) -> None:
        """With certificates alone, nodes belong to the subject that made them."""
        with session(secure.endpoint(tree_root, 0)) as one, session(secure.endpoint(tree_root, 0)) as same:
            tree.found(one)
            assert tree.check(same, None)
            with session(secure.endpoint(tree_root, 1)) as other, pytest.raises(PermissionRefused):
                tree.check(other, None)
            plain = Endpoint(servers=(secure.plain,), root=tree_root, session_s=4.0)
            with session(plain) as outside, pytest.raises(PermissionRefused):
                outside.get(tree.CLUSTER)

    def test_with_a_password_beside_it_each_host_writes_its_own_only(self, secure: Secure, tree_root: str) -> None:
        """What the hosts share is everybody's; status, sign of life, progress and claims are one host's to write."""
        ends = [secure.endpoint(tree_root, number, auth=PASSWORD) for number in (0, 1)]
        with session(ends[0]) as one, session(ends[1]) as two:
            assert tree.found(one).uuid == tree.found(two).uuid
            one.create(tree.status("a"), b"by a")
            one.create(tree.host("a"), b"live", is_ephemeral=True)
            one.create(tree.progress("a"), b"10 %", is_ephemeral=True)
            holder, verdict = "/v1/flock/store/holders/a", "/v1/flock/store/verdicts/a"
            one.create(holder, b"{}", is_ephemeral=True)
            one.create(verdict, b"{}")
            two.create("/v1/flock/store/verdicts/b", b"{}")
            for path in (tree.status("a"), tree.host("a"), tree.progress("a"), holder, verdict):
                assert two.get(path) is not None
                with pytest.raises(PermissionRefused):
                    two.put(path, b"forged")
                with pytest.raises(PermissionRefused):
                    two.write([Put(path, b"forged")])
                one.put(path, b"again")
            two.put(tree.CLUSTER, two.get(tree.CLUSTER).data)  # type: ignore[union-attr]
            path = tree.build_claim("store", "env-0")
            with Claims(one, "a").acquire(path, timeout_s=5) as claim:
                with pytest.raises(PermissionRefused):
                    two.put(claim.node, b"forged")
                with Claims(two, "b").try_acquire(path) as taken:
                    assert taken is None
                assert [holder.host for holder in Claims(two, "b").holders(path)] == ["a"]
                one.write([claim.guard(), Create(tree.intent("env-0"))])
            with Claims(two, "b").acquire(path, timeout_s=5) as claim:
                two.write([claim.guard(), Create(tree.intent("env-1"))])
            # What ZooKeeper cannot express: whoever may make children of a node may delete all of them.
            two.delete(tree.status("a"))

    def test_asking_who_we_are_counts_to_the_time_of_the_call(self, secure: Secure, tree_root: str) -> None:
        """The first node of a host's own asks three things more; nobody answers, and the call ends in its time."""
        whole = secure.endpoint(tree_root, 0, auth=PASSWORD)
        with LinkProxy(secure.address) as link, session(replace(whole, servers=(link.address,), session_s=30.0)) as one:
            for write in (
                lambda: one.create(tree.host("a"), is_ephemeral=True, timeout_s=0.3),
                lambda: one.write([Create(tree.host("a"), is_ephemeral=True)], timeout_s=0.3),
            ):
                link.silence()
                began = time.monotonic()
                with pytest.raises(CoordinatorUnavailable):
                    write()
                assert time.monotonic() - began < 2
                link.mend()

    def test_what_was_made_without_a_password_stays_open(self, endpoint: Endpoint) -> None:
        """A password that is set later closes nothing that is there: README says what to do."""
        with session(endpoint) as before:
            tree.found(before)
            before.create(tree.intent("env-0"))
        with session(replace(endpoint, auth=PASSWORD)) as inside, session(endpoint) as stranger:
            inside.create(tree.intent("env-1"), b"inside")
            with pytest.raises(PermissionRefused):
                stranger.get(tree.intent("env-1"))
            stranger.put(tree.intent("env-0"), b"forged")
            stranger.delete(tree.intent("env-1"))

    def test_the_password_alone_reads_but_does_not_write_a_hosts_own(self, secure: Secure, tree_root: str) -> None:
        """A stolen password, used without TLS, cannot forge what a host says of itself."""
        with session(secure.endpoint(tree_root, 0, auth=PASSWORD)) as host:
            host.create(tree.status("a"), b"by a")
            plain = Endpoint(servers=(secure.plain,), root=tree_root, session_s=4.0, auth=PASSWORD)
            with session(plain) as thief:
                assert thief.get(tree.status("a")) is not None
                with pytest.raises(PermissionRefused):
                    thief.put(tree.status("a"), b"forged")


class TestSettings:
    """From settings to an endpoint."""

    def load(self, root: Path, **values: object) -> Endpoint | None:
        root.mkdir(exist_ok=True)
        lines = [f"{key} = {value!r}".replace("'", '"') for key, value in values.items()]
        (root / "settings.toml").write_text("use_condarc = false\n" + "\n".join(lines) + "\n")
        return endpoint_.of_settings(settings.load(root=root, mode="personal", environ={}, home=root))

    def test_no_servers_no_cluster(self, tmp_path: Path) -> None:
        """A host without the setting is in no cluster."""
        assert self.load(tmp_path) is None

    def test_the_password_is_read_from_a_file_that_others_cannot_read(self, tmp_path: Path) -> None:
        """Colons may stand in it; comments and empty lines do not count; nothing of it is in an error's text."""
        file = tmp_path / "auth"
        file.write_text("# for ZooKeeper\n\nenvmgr:s3cret:with:colons\n")
        file.chmod(0o640)
        found = self.load(tmp_path, zookeeper=["zk1:2181"], zookeeper_auth_file=str(file), zookeeper_session_s=12)
        assert found == Endpoint(servers=("zk1:2181",), session_s=12.0, auth=PASSWORD)
        file.chmod(0o644)
        with pytest.raises(PermissionRefused, match="0644"):
            self.load(tmp_path, zookeeper=["zk1:2181"], zookeeper_auth_file=str(file))
        file.chmod(0o600)
        for text in ("s3cret", "envmgr:", ":s3cret", "a:s3cret\nb:s3cret"):
            file.write_text(text)
            with pytest.raises(UsageError) as bad:
                self.load(tmp_path, zookeeper=["zk1:2181"], zookeeper_auth_file=str(file))
            assert "s3cret" not in str(bad.value.to_json())
            assert bad.value.fields["setting"] == "zookeeper_auth_file"

    @pytest.mark.parametrize("key", ["auth_file", "ca_file", "cert_file", "key_file"])
    @pytest.mark.parametrize(("mode", "hint"), [("personal", "zookeeper = []"), ("service", "LoadCredential=zk:")])
    def test_what_only_the_service_is_given(self, tmp_path: Path, key: str, mode: settings.Mode, hint: str) -> None:
        """Nobody goes to the tree without the password or the certificate that the host's file speaks of."""
        (tmp_path / "envmgr").mkdir()
        whole = {f"zookeeper_{it}_file": f"/nowhere/{it}" for it in ("ca", "cert", "key")}
        lines = {**whole, f"zookeeper_{key}": "credential:zk"}
        text = "".join(f'{it} = "{value}"\n' for it, value in lines.items())
        (tmp_path / "envmgr" / "settings.toml").write_text(f'zookeeper = ["zk1:2181"]\n{text}')
        found = settings.load(root=None, mode=mode, environ={}, home=tmp_path, etc=tmp_path)
        with pytest.raises(UsageError, match="credential:zk is given to the service alone") as refused:
            endpoint_.of_settings(found)
        assert refused.value.fields["setting"] == f"zookeeper_{key}"
        assert hint in str(refused.value.hint)

    @pytest.mark.parametrize(
        ("values", "setting"),
        [
            ({"zookeeper_cert_file": "CERT"}, "zookeeper_key_file"),
            ({"zookeeper_key_file": "CERT"}, "zookeeper_cert_file"),
            ({"zookeeper_cert_file": "CERT", "zookeeper_key_file": "CERT"}, "zookeeper_ca_file"),
            ({"zookeeper_ca_file": "/nowhere/ca.pem"}, "zookeeper_ca_file"),
            ({"zookeeper_auth_file": "/nowhere/auth"}, "zookeeper_auth_file"),
            ({"zookeeper_session_s": 0.5}, "zookeeper_session_s"),
        ],
    )
    def test_what_cannot_work_is_refused_with_the_settings_name(
        self, tmp_path: Path, values: dict[str, object], setting: str
    ) -> None:
        """Half a certificate, files that are not there, a session that is too short."""
        (tmp_path / "cert").write_text("")
        given = {key: str(tmp_path / "cert") if value == "CERT" else value for key, value in values.items()}
        with pytest.raises(EnvmgrError) as refused:
            self.load(tmp_path, zookeeper=["zk1:2181"], **given)
        assert refused.value.fields["setting"] == setting


def everything(client: KazooClient, path: str) -> Iterator[str]:
    """Give paths, data and access lists of all nodes below one."""
    with contextlib.suppress(NoAuthError):
        data, _ = client.get(path)
        yield f"{path} {data!r} {client.get_acls(path)[0]}"
        for child in client.get_children(path):
            yield from everything(client, f"{path}/{child}")


def free_port() -> int:
    """Return a port that nobody listens on, outside the kernel's range for outgoing connections."""
    for port in random.SystemRandom().sample(range(30_000, 32_000), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise RuntimeError("no port")
