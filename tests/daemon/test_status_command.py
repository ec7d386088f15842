"""``envmgr status``: with a daemon what it says, without one what the store tells."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli.command_line import Cli, bare
from served import running, spec

from envmgr import errors
from envmgr.wire import address

KEYS = {
    "socket", "root", "daemon", "environments", "leases", "free_bytes", "size_bytes", "operations", "failures",
    "cluster",
}  # fmt: skip


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """A store without environments, without a daemon, of a user without settings."""
    return bare(tmp_path, monkeypatch)


def test_no_store_and_no_daemon(cli: Cli) -> None:
    """Where nothing is, that is said, nothing comes into being, and the exit code is 0."""
    (cli.root / "settings.toml").unlink()
    cli.root.rmdir()
    answer = cli("status")
    assert (answer.code, answer.out.splitlines()[0].split()) == (0, ["daemon:", "not", "running"])
    assert "envmgr daemon starts one" in answer.err
    record = cli("status", "--json").record
    assert set(record) == KEYS
    assert (record["daemon"], record["environments"], record["free_bytes"], record["socket"]) == (None, 0, None, None)
    assert not cli.root.exists()


def test_a_store_without_a_daemon(cli: Cli) -> None:
    """Environments, uses, space and failures are those of the store; a dead daemon's socket is no daemon."""
    name = cli.ready("create", cli.spec()).out.strip()
    cli.orders.fail(errors.Unsatisfiable("too much"))
    cli("create", cli.spec("scipy", name="other.yml", label="other"))
    (cli.root / address.LINK_NAME).symlink_to(cli.directory / "nobody.sock")
    with cli.using(name):
        record = cli("status", "--json").record
    assert (record["environments"], record["leases"], record["operations"]) == (1, 1, [])
    assert record["socket"] == str(cli.directory / "nobody.sock")
    assert record["free_bytes"] > 0
    (failure,) = record["failures"]
    assert (failure["code"], failure["label"], failure["attempts"]) == ("unsatisfiable", "other", 1)
    assert failure["retry_at"] == failure["at"] + 10
    text = cli("status").out
    assert "too much (not tried again before " in text
    assert "environments: 1, 0 in use\n" in text


def test_retry_clears_a_failure(cli: Cli) -> None:
    """What ``create --retry`` made is no failure any more, for status, list and show."""
    path = cli.spec()
    cli.orders.fail(errors.Unsatisfiable("too much"))
    cli("create", path)
    assert cli("list", "--json").record["environments"][0]["failure"]["code"] == "unsatisfiable"
    cli.orders.withdraw("fail")
    assert cli("create", path).code == errors.Unsatisfiable.exit_code
    cli.ready("create", path, "--retry")
    assert cli("status", "--json").record["failures"] == []
    assert cli("show", path, "--json").record["failure"] is None


def test_what_a_daemon_does(cli: Cli) -> None:
    """What runs and what waits is told with phase, place and whom it is for; so are failures, role and version."""
    with running(cli.directory, "max_builds = 1\n") as daemon, daemon.client() as client:
        cli.orders.fail(errors.Unsatisfiable("too much"))
        failed = client.ask("POST", "/v1/environments", {"spec": spec("scipy")}).data["operation"]
        assert [event for _, event, _ in client.events(failed["id"])][-1] == "end"
        cli.orders.withdraw("fail")
        cli.orders.hang()
        going = client.ask("POST", "/v1/environments", {"spec": spec("numpy")}).data["operation"]["name"]
        cli.orders.wait_started()
        waits = client.ask("POST", "/v1/environments", {"spec": spec("zlib")}).data["operation"]["name"]
        record, text = cli("status", "--json").record, cli("status").out
        pid = daemon.pid
        cli.orders.release()
    assert set(record) == KEYS
    assert record["root"] == str(cli.root)
    told = record["daemon"]
    assert (told["pid"], told["role"], told["running"], told["queued"]) == (pid, "admin", 1, 1)
    assert [(it["name"], it["state"], it["position"]) for it in record["operations"]] == [
        (going, "running", 0),
        (waits, "queued", 1),
    ]
    assert [failure["code"] for failure in record["failures"]] == ["unsatisfiable"]
    lines = text.splitlines()
    assert lines[0].startswith("daemon:       running since 20")
    assert any(line.startswith(f"operation:    ensure {going}: running, for ") for line in lines), text
    assert f"operation:    ensure {waits}: 1 operation to go first; asked for by " in text
    assert "too much (not tried again before " in text
