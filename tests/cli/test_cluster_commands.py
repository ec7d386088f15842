"""``envmgr cluster``, straight on a real ZooKeeper; the hosts only say what the test ordered of them."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import select
import signal
import time
from pathlib import Path

import pytest
from cluster_hosts import building, drifted, failing, living, ready
from command_line import Cli

from envmgr import errors
from envmgr.cli import rollout
from envmgr.cluster.rollout import summary
from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.wire.cluster import DeclaredEnvironment, Row
from envmgr.wire.tree import Selector

ROW_KEYS = {
    "host", "name", "success", "state", "is_live", "is_cordoned", "phase", "percent", "start", "end", "message", "code",
    "hint", "is_drift", "generation", "lock_generation", "lock_digest", "retry_at", "attempts",
}  # fmt: skip
FULL = errors.NoSpace("the disk of /var/lib/envmgr is full", hint="envmgr gc frees some")
LIMIT_S = 10.0


@pytest.fixture
def cluster(cli: Cli, endpoint: Endpoint) -> Cli:
    """A command line whose settings name the cluster."""
    with (cli.root / "settings.toml").open("a") as file:
        file.write(f"zookeeper = {json.dumps(list(endpoint.servers))}\n")
        file.write(f'zookeeper_root = "{endpoint.root}"\nzookeeper_session_s = 2\n')
    return cli


class TestCreate:
    def test_every_host_has_it(self, cluster: Cli, endpoint: Endpoint) -> None:
        """create prints the name once every live host is ready, a line for each on stderr, and a record with --json."""
        path = cluster.spec()
        name = cluster.ready("name", path).out.strip()
        with living(endpoint, {"alpha": ready, "beta": ready}):
            first = cluster.ready("cluster", "create", path, "--alias", "science")
            assert first.out == f"{name}\n"
            assert f"{name} is declared for 2 hosts" in first.err
            assert "alpha: ready, 3 s" in first.err
            assert f"{name}: 2 of 2 hosts done" in first.err
            record = cluster.ready("cluster", "create", path, "--json").record
        assert (record["name"], record["aliases"], record["summary"]["ready"]) == (name, ["science"], 2)
        for row in record["rows"]:
            assert set(row) == ROW_KEYS
            assert (row["success"], row["message"]) == (True, None)
            assert row["end"] - row["start"] == pytest.approx(3)

    def test_one_host_fails_alone_and_says_why(self, cluster: Cli, endpoint: Endpoint) -> None:
        """Exit code 1; the reason is in the words, every row in the error's record; why and retry go on from there."""
        path = cluster.spec()
        with living(endpoint, {"alpha": ready, "beta": failing(FULL)}):
            failed = cluster("cluster", "create", path)
            assert (failed.code, failed.out) == (1, "")
            assert "beta: failed" in failed.err
            assert "the disk of /var/lib/envmgr is full" in failed.err
            error = cluster("cluster", "create", path, "--json").record["error"]
            assert error["code"] == "rollout_failed"
            rows = {row["host"]: row for row in error["fields"]["rows"]}
            assert (rows["alpha"]["success"], rows["beta"]["success"], rows["beta"]["code"]) == (
                True,
                False,
                "no_space",
            )
            why = cluster.ready("cluster", "why", path, "beta").out
            assert "no_space: the disk of /var/lib/envmgr is full" in why
            assert "envmgr gc frees some" in why
            assert cluster("cluster", "why", path, "gamma").code == errors.HostUnknown.exit_code
            assert "no_space: the disk" in cluster.ready("cluster", "status").err
            assert cluster.ready("cluster", "create", path, "--min-ready", "1").code == 0
            assert cluster("cluster", "create", path, "--min-ready", "100%").code == 1
            cluster.ready("cluster", "retry", path, "beta", "--wait")

    def test_a_host_that_is_away_holds_nobody_up(self, cluster: Cli, endpoint: Endpoint) -> None:
        """It is named, and its row stays undecided; one that was asked for by its name is waited for."""
        path = cluster.spec()
        with living(endpoint, {"alpha": ready}, away=("beta",)):
            answer = cluster.ready("cluster", "create", path)
            assert "away, and to catch up when they are back: beta" in answer.err
            rows = cluster.ready("cluster", "show", path, "--json").record["rows"]
            assert {row["host"]: row["success"] for row in rows} == {"alpha": True, "beta": None}
            late = cluster("cluster", "create", path, "--host", "beta", "--timeout", "0.3", "--json")
            assert (late.code, late.record["error"]["code"]) == (8, "timed_out")
            assert [row["host"] for row in late.record["error"]["fields"]["rows"]] == ["beta"]
            assert "waiting for beta, too, which was named: the host is away" in late.err
            odd = cluster("cluster", "create", path, "--host", "gamma", "--timeout", "0.3")
            assert "waiting for gamma, too, which was named: no host of that name" in odd.err

    def test_a_host_that_is_cordoned_is_waited_for_when_it_was_named(self, cluster: Cli, endpoint: Endpoint) -> None:
        """That is said, since it may take for ever; without its name nobody waits for it."""
        path = cluster.spec()
        with living(
            endpoint, {"alpha": ready, "beta": lambda intent: dataclasses.replace(ready(intent), state="pending")}
        ):
            cluster.ready("cluster", "cordon", "beta")
            cluster.ready("cluster", "create", path)
            late = cluster("cluster", "create", path, "--host", "beta", "--timeout", "0.3")
            assert late.code == 8
            assert "waiting for beta, too, which was named: the host is cordoned" in late.err
            assert "is tried again on beta once it is uncordoned" in cluster.ready("cluster", "retry", path, "beta").err
            assert "is not declared for alpha" in cluster.ready("cluster", "retry", path, "alpha").err

    def test_who_is_meant(self, cluster: Cli, endpoint: Endpoint) -> None:
        """--host and --label choose; words that make no sense are refused before anything is declared."""
        path = cluster.spec()
        labels = {"alpha": {"gpu": "yes"}, "beta": {"gpu": "no"}}
        with living(endpoint, {"alpha": ready, "beta": ready}, labels=labels):
            for words in (
                ("--all", "--host", "alpha"), ("--label", "gpu"), ("--min-ready", "0"), ("--min-ready", "101%"),
                ("--max-parallel", "x"), ("--move-alias",), ("--no-wait", "--min-ready", "1"), ("--timeout", "never"),
                ("--alias", "env-0123456789abcdef"),
            ):  # fmt: skip
                assert cluster("cluster", "create", path, *words).code == 2, words
            assert cluster.ready("cluster", "status", "--json").record["environments"] == []
            cluster.ready("cluster", "create", path, "--label", "gpu=yes", "--max-parallel", "50%")
            shown = cluster.ready("cluster", "show", path).out
            nobody = cluster.ready("cluster", "create", path, "--label", "gpu=maybe")
            assert "nobody makes it now: no host that the cluster knows is meant (gpu=maybe)" in nobody.err
        assert "for:            gpu=yes" in shown
        assert "alpha" in shown
        assert "beta" not in shown

    def test_before_any_host_has_joined(self, cluster: Cli) -> None:
        """The first create makes the cluster, which nobody is in yet; that is said."""
        assert "no host has joined it yet" in cluster.ready("cluster", "create", cluster.spec()).err

    def test_interrupted(self, cluster: Cli, endpoint: Endpoint) -> None:
        """Ctrl-C while it waits: exit code 130, it says that the declaration stays in force, and it does."""
        path = cluster.spec()
        with living(endpoint, {"alpha": building}):
            process = cluster.start("cluster", "create", path)
            assert process.stderr is not None
            lines = [process.stderr.readline()]
            while "alpha: building" not in lines[-1]:
                assert lines[-1], lines
                lines.append(process.stderr.readline())
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=LIMIT_S)
            assert process.returncode == 130
            assert "stays in force; envmgr cluster show" in err
            assert cluster.ready("cluster", "show", path, "--json").record["state"] == "present"

    def test_the_table_of_a_terminal(self, cluster: Cli, endpoint: Endpoint) -> None:
        """On a terminal there is a table with a row per host, phase and percentage, and a summary below it."""
        path = cluster.spec()
        with living(endpoint, {"alpha": building, "beta": failing(FULL)}):
            terminal, side = pty.openpty()
            process = cluster.start("cluster", "create", path, stderr=side, env={**cluster.environ(), "TERM": "xterm"})
            os.close(side)
            try:
                said = _until(terminal, "link 40 %")
            finally:
                process.terminate()
                left = _until(terminal, None)
                process.communicate(timeout=LIMIT_S)
                os.close(terminal)
        assert process.returncode == 143
        assert "HOST" in said
        assert "no_space: the disk of /var/lib/envmgr is full" in " ".join(said.split())
        assert "0 of 2 hosts done, 1 failed, 1 building" in said + left


def _until(terminal: int, words: str | None) -> str:
    """Read what appears on a terminal until there is `words` in it, or until its end."""
    said = ""
    until = time.monotonic() + LIMIT_S
    while words is None or words not in said:
        if not select.select([terminal], [], [], max(0.0, until - time.monotonic()))[0]:
            raise AssertionError(said)
        try:
            block = os.read(terminal, 1 << 16)
        except OSError:  # its other side is closed
            return said
        said += block.decode()
    return said


class TestWhatHostsShare:
    def test_remove(self, cluster: Cli, endpoint: Endpoint) -> None:
        """remove --wait returns when it is gone everywhere; its alias goes with it; a second time it is not found."""
        path = cluster.spec()
        with living(endpoint, {"alpha": ready, "beta": ready}):
            cluster.ready("cluster", "create", path, "--alias", "science")
            removed = cluster.ready("cluster", "remove", "science", "--wait")
            assert "is to go from 2 hosts" in removed.err
            assert cluster.ready("cluster", "alias", "list", "--json").record == {"aliases": []}
            assert cluster("cluster", "remove", "science").code == 6

    def test_a_removal_that_takes_longer(self, cluster: Cli, endpoint: Endpoint) -> None:
        """It is told as a removal: on how many hosts it is gone, and that it stays in force."""
        path = cluster.spec()
        with living(endpoint, {"alpha": ready, "beta": building}):
            cluster.ready("cluster", "create", path, "--no-wait")
            late = cluster("cluster", "remove", path, "--wait", "--timeout", "0.5")
            assert late.code == 8
            assert "the removal of env-" in late.err
            assert "hosts after 0.5 s; 2 were needed" in late.err
            assert "is gone from" in late.err
            assert "ready" not in late.err

    def test_aliases(self, cluster: Cli, endpoint: Endpoint) -> None:
        """An alias stands for one environment and moves only when told to."""
        one, other = cluster.spec(), cluster.spec("scipy", name="other.yml")
        with living(endpoint, {"alpha": ready}):
            cluster.ready("cluster", "create", one, "--alias", "science")
            name = cluster.ready("cluster", "create", other).out.strip()
            assert cluster("cluster", "alias", "set", "science", other).code == 7
            refused = cluster("cluster", "create", other, "--alias", "science")
            assert (refused.code, "--move-alias" in refused.err) == (7, True)
            cluster.ready("cluster", "alias", "set", "science", name, "--move")
            assert cluster.ready("cluster", "show", "science", "--json").record["name"] == name
            cluster.ready("cluster", "alias", "remove", "science")
            assert cluster("cluster", "show", "science").code == 6

    def test_hosts(self, cluster: Cli, endpoint: Endpoint) -> None:
        """hosts lists who lives and who is away; cordon, uncordon and forget change it."""
        with living(endpoint, {"alpha": ready}, away=("beta",)):
            cluster.ready("cluster", "cordon", "alpha")
            listed = cluster.ready("cluster", "hosts", "--json").record["hosts"]
            assert {host["host"]: (host["is_live"], host["is_cordoned"]) for host in listed} == {
                "alpha": (True, True), "beta": (False, False),
            }  # fmt: skip
            assert "live, cordoned" in cluster.ready("cluster", "hosts").out
            cluster.ready("cluster", "uncordon", "alpha")
            assert cluster("cluster", "forget", "alpha").code == 2
            cluster.ready("cluster", "forget", "beta")
            assert [host["host"] for host in cluster.ready("cluster", "hosts", "--json").record["hosts"]] == ["alpha"]
            assert cluster("cluster", "cordon", "gamma").code == errors.HostUnknown.exit_code

    def test_relock_and_heal(self, cluster: Cli, endpoint: Endpoint) -> None:
        """Both are asked for, and say what is to happen."""
        path = cluster.spec()
        with living(endpoint, {"alpha": ready}):
            cluster.ready("cluster", "create", path)
            assert "is to be solved again" in cluster.ready("cluster", "relock", path, "--wait").err
            healed = cluster.ready("cluster", "heal", "--json")
            assert (healed.record["heal"], healed.record["drifted_hosts"]) == (1, [])
            assert "no host says that anything drifted" in healed.err
        with living(endpoint, {"beta": drifted}):
            cluster.ready("cluster", "create", path)
            assert "what drifted is brought back in line on beta" in cluster.ready("cluster", "heal").err

    def test_settings(self, cluster: Cli, endpoint: Endpoint) -> None:
        """Settings and classes are set, shown and taken away; what no cluster can share is refused."""
        with living(endpoint, {"alpha": ready}):
            cluster.ready(
                "cluster", "settings", "channel_priority=flexible", "--class", "linux-64=__glibc:2.28,__cuda:"
            )
            record = cluster.ready("cluster", "settings", "--json").record
            assert record["settings"] == {"channel_priority": "flexible"}
            assert record["classes"] == {"linux-64": {"__glibc": "2.28", "__cuda": ""}}
            assert "channel_priority = flexible" in cluster.ready("cluster", "settings").out
            record = cluster.ready(
                "cluster", "settings", "--unset", "channel_priority", "--unset", "linux-64", "--json"
            ).record
            assert (record["settings"], record["classes"]) == ({}, {})
            for words in (("offline=true",), ("nonsense=1",), ("channel_priority",), ("--class", "linux-64")):
                assert cluster("cluster", "settings", *words).code == 2, words

    def test_export_and_import(self, cluster: Cli, endpoint: Endpoint, tmp_path: Path) -> None:
        """What was exported can be imported into a cluster; into one that has something only with --replace."""
        path = cluster.spec()
        with living(endpoint, {"alpha": ready}):
            name = cluster.ready("cluster", "create", path, "--alias", "science").out.strip()
            file = tmp_path / "intent.json"
            assert cluster.ready("cluster", "export", file, "--json").record["environments"] == 1
            assert json.loads(cluster.ready("cluster", "export").out)["aliases"] == {"science": name}
            cluster.ready("cluster", "remove", path, "--wait")
            cluster.ready("cluster", "import", file, "--replace")
            assert cluster.ready("cluster", "show", "science", "--json").record["state"] == "present"
            text = file.read_text()
            file.write_text(" " * (65 << 20) + text)  # larger than any spec: with thousands of lockfiles it is
            cluster.ready("cluster", "import", file, "--replace")
            file.write_text("{}")
            empty = cluster("cluster", "import", file)
            assert (empty.code, "aliases, cordons missing" in empty.err) == (2, True)
            assert cluster("cluster", "import", tmp_path / "nothing.json").code == 2


class Flaky:
    """An environment that nobody can tell of in some looks (``None``)."""

    def __init__(self, looks: list[DeclaredEnvironment | None]) -> None:
        self.looks = looks

    def show(self) -> DeclaredEnvironment:
        look = self.looks.pop(0)
        if look is None:
            raise errors.CoordinatorUnavailable("no answer")
        return look

    def wait(self, timeout_s: float) -> None:
        pass


class Heard(rollout.Show):
    """Remembers what was said while nobody answered."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def unanswered(self, words: str) -> None:
        self.said.append(words)


def row_of(**facts: object) -> Row:
    """Return the row of a host that lives and has not begun, but for these facts."""
    host = {"host": "alpha", "state": "pending", "is_live": True, "is_cordoned": False}
    return Row(**{**dict.fromkeys(ROW_KEYS), **host, **facts})  # type: ignore[arg-type]  # a table of fields


def declared(*rows: Row) -> DeclaredEnvironment:
    """Return an environment with these rows."""
    return DeclaredEnvironment(
        name="env-1", state="present", generation=1, label=None, aliases=(), lock_generation=1, selector=Selector(),
        max_parallel=0, declared_by="", declared_at=0.0, rows=rows,
    )  # fmt: skip


def test_an_answer_that_fails_in_between_ends_no_wait() -> None:
    """ZooKeeper may be away while a command waits, also before it has seen anything, but not for longer than it may."""
    pending, done = declared(row_of()), declared(row_of(state="ready", success=True))
    show = Heard()
    assert rollout.wait(Flaky([None, pending, None, None, done]), show) == done
    assert show.said == ["no answer; asked again for up to 60 s"] * 2  # once each time
    with pytest.raises(errors.CoordinatorUnavailable):
        rollout.wait(Flaky([None, None]), rollout.Show(), timeout_s=0.1)


def test_what_keeps_a_host_that_lives_is_told_in_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """A wait without a terminal says once what is wrong with a host that does not begin; of those away, nothing."""
    waiting = row_of()
    kept = dataclasses.replace(waiting, message="[Errno 28] No space left on device")
    away = dataclasses.replace(waiting, host="beta", is_live=False, message="the host is away")
    with rollout.showing(is_quiet=False) as show:
        for row in (waiting, kept, waiting, kept):
            show.rows((row, away), summary(declared(row, away)))
    assert capsys.readouterr().err == "envmgr: alpha: pending, [Errno 28] No space left on device\n"


class TestWithoutACluster:
    def test_nothing_is_set(self, cli: Cli) -> None:
        """Without a daemon and without the setting, the error says what to set (exit code 2)."""
        answer = cli("cluster", "status")
        assert answer.code == 2
        assert "ENVMGR_ZOOKEEPER" in answer.err
        assert cli.ready("doctor", "--only", "cluster").out.split()[-5:] == ["this", "host", "is", "in", "none"]

    def test_no_tree(self, cluster: Cli) -> None:
        """A ZooKeeper without a cluster's tree is refused with a hint, and doctor says so."""
        answer = cluster("cluster", "status")
        assert answer.code == errors.ClusterTreeRefused.exit_code
        assert "cluster create" in answer.err
        assert cluster("doctor", "--only", "cluster").code == 1

    @pytest.mark.slow
    def test_no_zookeeper(self, cli: Cli) -> None:
        """Servers that do not answer: exit code 9, after a bounded time."""
        with (cli.root / "settings.toml").open("a") as file:
            file.write('zookeeper = ["127.0.0.1:1"]\n')
        assert cli("cluster", "hosts").code == 9
