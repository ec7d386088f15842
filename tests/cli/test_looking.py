"""list, show, logs, doctor, settings."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path

import pytest
from command_line import Cli

from envmgr import errors
from envmgr.cli import output

LISTED_KEYS = {
    "name", "state", "label", "aliases", "path", "prefix", "build_id", "digest", "lock_digest", "machine_class",
    "created_at", "last_used_at", "size_bytes", "packages", "python_version", "is_pinned", "used_by", "failure",
}  # fmt: skip


class TestList:
    def test_an_empty_store_and_none(self, cli: Cli) -> None:
        """Nothing is there: a header, an empty list, exit code 0; no store comes into being."""
        assert cli("list").out.split() == [
            "NAME",
            "LABEL",
            "ALIASES",
            "STATE",
            "PYTHON",
            "SIZE",
            "CREATED",
            "USED",
            "BY",
        ]
        assert cli("list", "--json").record == {"root": str(cli.root), "environments": []}
        assert not (cli.root / "envs").exists()

    def test_columns_are_aligned(self, cli: Cli) -> None:
        """One line for each environment, failed ones too; every column begins under its title."""
        ready = cli.ready("create", cli.spec(label="first"), "--alias", "prod").out.strip()
        cli.orders.fail(errors.Unsatisfiable("no"))
        cli("create", cli.spec("scipy", name="other.yml"))
        header, *lines = cli("list").out.splitlines()
        by_name = {line.split()[0]: line for line in lines}
        assert len(by_name) == 2
        assert by_name[ready][header.index("LABEL") :].split()[0:3] == ["first", "prod", "ready"]
        other = next(line for name, line in by_name.items() if name != ready)
        assert other[header.index("STATE") :].split()[0] == "failed"

    def test_json_has_every_key(self, cli: Cli) -> None:
        """Each environment is a record with every key, whatever its state."""
        cli.ready("create", cli.spec())
        cli.orders.fail(errors.Unsatisfiable("no", hint="ask less"))
        cli("create", cli.spec("scipy", name="other.yml"))
        found = cli("list", "--json").record["environments"]
        assert [set(info) for info in found] == [LISTED_KEYS, LISTED_KEYS]
        failed = next(info for info in found if info["state"] == "failed")
        assert failed["failure"]["code"] == "unsatisfiable"
        assert failed["prefix"] is None

    def test_a_label_cannot_forge_lines(self) -> None:
        """Control characters in what others wrote are shown escaped, on one line."""
        assert output.one_line("a\x1b[2J\nb\tc") == "a\\x1b[2J\\nb\\tc"


class TestShow:
    def test_every_fact(self, cli: Cli) -> None:
        """The facts of the record are lines, of several values one each; JSON has them all."""
        path = cli.spec(label="mine")
        cli.ready("create", path, "--alias", "one")
        cli.ready("alias", "set", "two", path)
        lines = cli("show", "one").out.splitlines()
        assert [line.split()[1] for line in lines if line.startswith("alias:")] == ["one", "two"]
        assert any(line.split() == ["state:", "ready"] for line in lines)
        record = cli("show", path, "--json").record
        assert set(record) == LISTED_KEYS | {
            "build_duration_s", "phases_s", "skipped_link_scripts", "warnings", "host", "envmgr_version",
        }  # fmt: skip
        assert record["aliases"] == ["one", "two"]

    def test_names_its_users(self, cli: Cli) -> None:
        """A process that holds the lease is named with pid and command."""
        name = cli.ready("create", cli.spec()).out.strip()
        with cli.using(name) as pid:
            users = cli("show", name, "--json").record["used_by"]
            assert f"used by:       {pid} (cat) (lease)\n" in cli("show", name).out
            assert str(pid) in cli("list").out
        assert [(user["pid"], user["command"], user["how"]) for user in users] == [(pid, "cat", "lease")]
        assert cli("show", name, "--json").record["used_by"] == []

    def test_a_failure_and_a_damaged_record(self, cli: Cli) -> None:
        """What failed is shown with its message and when it is tried again; a damaged record is no crash."""
        path = cli.spec()
        cli.orders.fail(errors.Unsatisfiable("too much\x1b"))
        name = cli("create", path, "--json").record and cli("name", path).out.strip()
        assert "unsatisfiable: too much\\x1b (not tried again before 20" in cli("show", name).out
        cli.orders.withdraw("fail")
        prefix = Path(cli("create", path, "--retry", "--json").record["prefix"])
        (prefix.parent.parent / "record.json").write_text("{")
        record = cli("show", name, "--json").record
        assert (record["state"], record["phases_s"]) == ("damaged", None)


class TestLogs:
    def test_of_a_build_and_of_a_failure(self, cli: Cli) -> None:
        """The log of what is there; where nothing is, of the last failure."""
        good, bad = cli.spec(), cli.spec("scipy", name="bad.yml")
        cli.ready("create", good)
        assert cli("logs", good).out.endswith("installed\n")
        cli.orders.fail(errors.BuildFailed("no"))
        cli("create", bad)
        assert cli("logs", bad).out.startswith("building env-")
        assert set(cli("logs", bad, "--json").record) == {"name", "log"}


class TestDoctor:
    def test_a_fit_host(self, cli: Cli) -> None:
        """Without errors the exit code is 0; each finding has check, status, message, hint."""
        answer = cli("doctor", "--json")
        assert answer.code == 0
        assert answer.record["is_fit"] is True
        assert {"filesystem", "disk", "clock", "envs", "records"} <= {
            finding["check"] for finding in answer.record["findings"]
        }
        assert all(set(finding) == {"check", "status", "message", "hint"} for finding in answer.record["findings"])
        assert cli("doctor").out.splitlines()[0].split() == ["STATUS", "CHECK", "FINDING"]

    def test_one_check(self, cli: Cli) -> None:
        """``--only`` runs one check and nothing else; an unknown one is a usage error that names them all."""
        answer = cli("doctor", "--only", "disk", "--json")
        assert {finding["check"] for finding in answer.record["findings"]} == {"disk"}
        assert cli("doctor", "--only", "disc").code == 2

    def test_foreign_things_are_corruption_until_quarantined(self, cli: Cli) -> None:
        """A directory that another program made in envs/: exit code 12; --quarantine keeps its files, in the trash."""
        cli.ready("doctor")
        (cli.root / "envs" / "foreign").mkdir()
        (cli.root / "envs" / "foreign" / "file").write_text("mine")
        assert cli("doctor").code == 12
        assert cli("doctor", "--quarantine").code == 0
        assert [path.read_text() for path in cli.root.glob("trash/*/file")] == ["mine"]

    def test_broken_settings_are_a_finding(self, cli: Cli) -> None:
        """Settings that cannot be read are reported like anything else that is wrong, with the file, exit code 1."""
        (cli.root / "settings.toml").write_text("offline = 3\n")
        answer = cli("doctor", "--json")
        assert answer.code == 1
        found = {finding["check"]: finding for finding in answer.record["findings"]}
        assert (found["daemon"]["status"], found["settings"]["status"]) == ("ok", "error")
        assert "settings.toml: offline" in found["settings"]["message"]
        (cli.root / "settings.toml").write_text("= nonsense\n")
        assert cli("doctor", "--only", "settings").code == 1

    def test_offline_no_channel_is_asked(self, cli: Cli) -> None:
        """A host whose setting says that there is no network is fit without its channels."""
        with (cli.root / "settings.toml").open("a") as file:
            file.write('offline = true\ndefault_channels = ["https://a.invalid/x", "file:///y"]\n')
        found = [one["message"] for one in cli.ready("doctor", "--only", "channel", "--json").record["findings"]]
        assert found == ["https://a.invalid/x is not asked: offline mode is on", "file:///y answers"]

    def test_another_user_is_told_what_he_may_see(self, cli: Cli) -> None:
        """Who does not own the store gets the checks that he can make; he moves nothing."""
        if os.geteuid() != 0:
            pytest.skip("needs root, to become another user")
        cli.ready("create", cli.spec())
        answer = cli.as_nobody("doctor", "--json")
        found = {finding["check"]: finding for finding in answer.record["findings"]}
        assert answer.code == 0, found
        assert "for its owner" in found["filesystem"]["message"]
        assert found["records"]["message"] == "1 environment"
        assert cli.as_nobody("doctor", "--quarantine").code == 11

    def test_a_daemon_that_left_its_socket(self, cli: Cli) -> None:
        """A personal store without its daemon is fit; something else at the daemon's place is not."""
        cli.ready("doctor")
        (cli.root / "socket").symlink_to(cli.directory / "nobody.sock")
        assert cli("doctor", "--only", "daemon").code == 0
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(cli.directory / "nobody.sock"))
            listener.listen()

            def answer() -> None:
                with listener.accept()[0] as connection:
                    connection.sendall(b"220 ready\r\n\r\n")

            other = threading.Thread(target=answer)
            other.start()
            assert cli("doctor", "--only", "daemon").code == 1
            other.join()

    def test_other_errors_are_1(self, cli: Cli) -> None:
        """An error that is no corruption (too little space for a build) is exit code 1."""
        cli.ready("doctor")
        with (cli.root / "settings.toml").open("a") as file:
            file.write("\n")
        text = (cli.root / "settings.toml").read_text().replace("min_free_bytes = 0", f"min_free_bytes = {2**60}")
        (cli.root / "settings.toml").write_text(text)
        assert cli("doctor").code == 1


class TestSettings:
    def test_each_with_value_and_source(self, cli: Cli) -> None:
        """Every setting has a row; where it is set is named; passwords are not shown."""
        with (cli.root / "settings.toml").open("a") as file:
            file.write('index_url = "https://me:secret@example.invalid/simple"\n')
        answer = cli("settings")
        record = cli("settings", "--json").record
        rows = {row["key"]: row for row in record["settings"]}
        assert set(record) == {"root", "mode", "subdir", "settings", "warnings"}
        assert rows["index_url"]["source"] == f"{cli.root}/settings.toml: index_url"
        assert rows["offline"]["source"] == "default"
        assert "secret" not in answer.out + json.dumps(record)
        assert [line.split()[0] for line in answer.out.splitlines()[1:]] == list(rows)

    def test_a_wrong_setting_is_a_usage_error(self, cli: Cli) -> None:
        """A setting that cannot be read is named with its file, by every command that needs it."""
        (cli.root / "settings.toml").write_text("offline = 3\n")
        for command in (["settings"], ["create", str(cli.spec())]):
            answer = cli(*command)
            assert (answer.code, "settings.toml: offline" in answer.err) == (2, True)


class TestNotation:
    @pytest.mark.parametrize(
        ("size_bytes", "text"),
        [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * 2**30, "5.0 GiB"), (2**50, "1024.0 TiB")],
    )
    def test_sizes(self, size_bytes: int | None, text: str) -> None:
        """Sizes are shown in binary units."""
        assert output.size(size_bytes) == text

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(0, "just now"), (60, "1 minute ago"), (7200, "2 hours ago"), (3 * 86400, "3 days ago"), (-5, "just now")],
    )
    def test_ages(self, seconds: float, text: str) -> None:
        """Ages are shown in their largest whole unit; a clock that went back shows nothing odd."""
        now = time.time()
        assert output.age(now - seconds, now) == text
