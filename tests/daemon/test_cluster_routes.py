"""The cluster's administration through a daemon: who may do what, what is told, and the same verbs over the socket."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cli.command_line import Cli, bare
from fakes.clock import FakeClock
from fakes.tree import FakeServers
from served import running, spec

from envmgr.cluster.administration import Administration
from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.daemon.cluster_service import ClusterService
from envmgr.daemon.telling import Teller
from envmgr.errors import AliasTaken, EnvironmentNotFound, HostUnknown, PermissionRefused, UsageError
from envmgr.model import Caller
from envmgr.store.layout import Layout
from envmgr.wire import cluster as wire
from envmgr.wire.socket import AliasRequest, SpecDocument

ANN = Caller("ann", "use", uid=1001, pid=1)
ROOT = Caller("root", "admin", uid=0, pid=2)
NUMPY = wire.DeclareRequest(spec=SpecDocument(text="dependencies: [numpy]\n", includes={}), alias="science")
SCIPY = wire.DeclareRequest(spec=SpecDocument(text="dependencies: [scipy]\n", includes={}), alias="science")


class Told:
    """An observer that remembers who did what to which name, and how it ended."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str, str | None, str]] = []
        self.facts: list[dict[str, object]] = []

    def changed(
        self, caller: Caller, what: str, name: str | None, outcome: str, duration_s: float, **facts: object
    ) -> None:
        assert duration_s >= 0
        self.changes.append((caller.user, what, name, outcome))
        self.facts.append(facts)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def service(told: Told, tmp_path: Path) -> ClusterService:
    """A service over a tree in memory."""
    clock, tree = FakeClock(), FakeServers().session()
    teller = Teller(told, Layout(tmp_path), clock)
    return ClusterService(teller, clock, lambda by: Administration(tree, by=by, clock=clock))


CHANGES: dict[str, Callable[[ClusterService, Caller], object]] = {
    "cluster create": lambda it, who: it.create(who, NUMPY),
    "cluster relock": lambda it, who: it.relock(who, "science"),
    "cluster retry": lambda it, who: it.retry(who, "science", wire.RetryRequest()),
    "cluster alias": lambda it, who: it.set_alias(who, "other", AliasRequest(environment="science")),
    "cluster unalias": lambda it, who: it.remove_alias(who, "other"),
    "cluster heal": lambda it, who: it.heal(who),
    "cluster settings": lambda it, who: it.change_settings(
        who, wire.ClusterSettingsRequest(settings={"channel_priority": "flexible"})
    ),
    "cluster import": lambda it, who: it.import_(
        who, wire.ImportRequest(document=json.dumps(_document(it)), replace=True)
    ),
    "cluster remove": lambda it, who: it.remove(who, "science"),
}
OF_HOSTS: dict[str, Callable[[ClusterService, Caller], object]] = {
    "cluster cordon": lambda it, who: it.cordon(who, "gone", is_cordoned=True),
    "cluster forget": lambda it, who: it.forget(who, "gone"),
}


def _document(service: ClusterService) -> dict[str, object]:
    return dataclasses.asdict(service.export(ROOT))


def test_only_admins_change(service: ClusterService, told: Told) -> None:
    """Each change of a user is refused and told, and changes nothing; each of an admin is done, and told once."""
    service.create(ROOT, NUMPY)
    service.set_alias(ROOT, "other", AliasRequest(environment="science"))
    told.changes.clear()
    for what, change in {**CHANGES, **OF_HOSTS}.items():
        if what == "cluster import":
            continue  # of which the looking half comes first; below
        with pytest.raises(PermissionRefused):
            change(service, ANN)
        assert told.changes.pop()[:2] == ("ann", what)
    with pytest.raises(PermissionRefused):
        service.import_(ANN, wire.ImportRequest(document="{}"))
    told.changes.clear()
    for what, change in CHANGES.items():
        change(service, ROOT)
        (done,) = told.changes
        assert (done[0], done[1], done[3]) == ("root", what, "succeeded")
        told.changes.clear()


def test_all_may_look(service: ClusterService) -> None:
    """What a user looks at is what an admin looks at."""
    declared = service.create(ROOT, NUMPY)
    for who in (ANN, ROOT):
        assert [it.name for it in service.status(who).environments] == [declared.name]
        assert service.show(who, "science").declared_by == "root"
        assert service.aliases(who).aliases == {"science": declared.name}
        assert service.hosts(who).hosts == ()
        assert service.cluster(who).uuid == service.export(who).uuid
        with pytest.raises(HostUnknown):
            service.why(who, "science", "gone")


def test_errors_are_told(service: ClusterService, told: Told) -> None:
    """What fails says what is wrong, and is told as failed."""
    service.create(ROOT, NUMPY)
    told.changes.clear()
    with pytest.raises(AliasTaken):
        service.create(ROOT, SCIPY)
    with pytest.raises(EnvironmentNotFound):
        service.remove(ROOT, "nothing")
    with pytest.raises(UsageError):
        service.import_(ROOT, wire.ImportRequest(document="[1]"))
    assert [(what, outcome) for _, what, _, outcome in told.changes] == [
        ("cluster create", "failed"), ("cluster remove", "failed"), ("cluster import", "failed"),
    ]  # fmt: skip


def test_a_daemon_without_a_cluster(tmp_path: Path) -> None:
    """Every route is there and answers with one error that names the setting."""
    with running(tmp_path) as daemon, daemon.client() as client:
        for method, path, body in (
            ("GET", "", None), ("GET", "/hosts", None), ("POST", "/environments", {"spec": spec("numpy")}),
            ("GET", "/intent", None), ("POST", "/heal", None), ("DELETE", "/hosts/h", None),
        ):  # fmt: skip
            error = client.ask(method, f"/v1/cluster{path}", body).error(400)
            assert (error["code"], "zookeeper" in error["hint"]) == ("usage", True)


def test_an_administrator_imports_more_than_a_request_is_else(tmp_path: Path) -> None:
    """An export has every lockfile of a cluster: what a daemon wrote, it takes, too."""
    with running(tmp_path) as daemon, daemon.client() as client:
        body = {"document": "x" * (17 << 20)}
        assert "zookeeper" in client.ask("PUT", "/v1/cluster/intent", body).error(400)["hint"]
        assert client.ask("POST", "/v1/cluster/environments", body).error(413)["code"] == "usage"


@pytest.mark.slow
def test_commands_through_a_daemon(tmp_path: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the store's daemon answers, every command goes through it; its agent makes what was declared."""
    cli: Cli = bare(tmp_path, monkeypatch)
    settings = (
        f'zookeeper = {json.dumps(list(endpoint.servers))}\nzookeeper_root = "{endpoint.root}"\n'
        'zookeeper_session_s = 2\nhost_id = "alpha"\n'
    )
    path = cli.spec()
    with running(tmp_path, settings):
        # Without the settings, no command finds ZooKeeper by itself.
        (cli.root / "settings.toml").write_text("use_condarc = false\nuse_pip_conf = false\n")
        name = cli.ready("cluster", "create", path, "--alias", "science", "--timeout", "30").out.strip()
        assert cli.ready("list", "--json").record["environments"][0]["name"] == name
        record = cli.ready("cluster", "show", "science", "--json").record
        assert [(row["host"], row["success"]) for row in record["rows"]] == [("alpha", True)]
        assert [lock["generation"] for lock in record["lockfiles"]] == [1]
        assert cli.ready("cluster", "why", "science", "alpha", "--json").record["state"] == "ready"
        assert cli.ready("cluster", "status", "--json").record["environments"][0]["summary"]["ready"] == 1
        assert cli.ready("status", "--json").record["cluster"]["host"] == "alpha"
        assert "alpha, 1 environment wanted here" in cli.ready("status").out
        assert cli("remove", path).code == 7
        cli.ready("cluster", "relock", "science", "--wait", "--timeout", "30")
        cli.ready("cluster", "retry", "science")
        cli.ready("cluster", "heal")
        cli.ready("cluster", "settings", "channel_priority=flexible", "--class", "linux-64=__glibc:2.28")
        cli.ready("cluster", "settings", "--unset", "channel_priority", "--unset", "linux-64")
        cli.ready("cluster", "cordon", "alpha")
        cli.ready("cluster", "uncordon", "alpha")
        cli.ready("cluster", "alias", "set", "other", "science")
        cli.ready("cluster", "alias", "remove", "other")
        assert cli("cluster", "forget", "alpha").code == 2
        cli.ready("cluster", "export", tmp_path / "intent.json")
        cli.ready("cluster", "import", tmp_path / "intent.json", "--replace")
        (finding,) = cli.ready("doctor", "--only", "cluster", "--json").record["findings"]
        assert (finding["status"], "1 of 1 host live" in finding["message"]) == ("ok", True)
        cli.ready("cluster", "remove", "science", "--wait", "--timeout", "30")
        assert [it["state"] for it in cli.ready("list", "--json").record["environments"]] in ([], ["absent"])
