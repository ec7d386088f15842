"""remove, alias, pin, gc."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Cli


class TestRemove:
    @pytest.mark.parametrize("by", ["file", "name"])
    def test_removes_the_environment(self, cli: Cli, by: str) -> None:
        """FILE and NAME remove the environment and its files; nothing is on standard output."""
        path = cli.spec()
        name = cli.ready("create", path).out.strip()
        answer = cli("remove", path if by == "file" else name)
        assert (answer.code, answer.out, answer.err) == (0, "", f"envmgr: {name} is removed\n")
        assert cli.leftovers() == []
        assert cli("remove", name).code == 6

    def test_an_alias_is_dropped_alone(self, cli: Cli) -> None:
        """remove ALIAS takes the alias and nothing else; options about files make no sense then."""
        path = cli.spec()
        name = cli.ready("create", path, "--alias", "prod").out.strip()
        assert cli("remove", "prod", "--forget").code == 2
        assert cli("remove", "prod", "--json").record == {
            "name": name, "alias": "prod", "build_id": None, "is_deleted": False, "used_by": [],
        }  # fmt: skip
        assert cli("verify", name).code == 0
        assert cli("remove", "prod").code == 6

    def test_in_use_names_who(self, cli: Cli) -> None:
        """An environment in use stays (exit code 7, pid and command); --when-free takes its name away now."""
        name = cli.ready("create", cli.spec()).out.strip()
        with cli.using(name) as pid:
            refused = cli("remove", name)
            assert refused.code == 7
            assert f"{pid} (cat)" in refused.err
            error = cli("remove", name, "--json").record["error"]
            assert [user["pid"] for user in error["fields"]["users"]] == [pid]
            freed = cli("remove", name, "--when-free", "--json").record
            assert (freed["is_deleted"], [user["pid"] for user in freed["used_by"]]) == (False, [pid])
            assert cli("show", name, "--json").record["state"] == "absent"
        cli.ready("gc")
        assert cli.leftovers() == []

    def test_when_free_says_who_frees(self, cli: Cli) -> None:
        """Without a daemon the files wait for the next command that frees."""
        name = cli.ready("create", cli.spec()).out.strip()
        with cli.using(name) as pid:
            said = cli.ready("remove", name, "--when-free").err
        assert f"stay while {pid} (cat)" in said
        assert "the next create that builds, remove or gc frees them after that" in said

    def test_forget_drops_the_lockfile(self, cli: Cli) -> None:
        """The lockfile in force survives remove, and does not survive --forget."""
        path = cli.spec()
        first = cli("create", path, "--json").record["lock_digest"]
        cli.orders.say("version", "2.0")
        cli.ready("remove", path)
        assert cli("create", path, "--json").record["lock_digest"] == first
        cli.ready("remove", path, "--forget")
        assert cli("create", path, "--json").record["lock_digest"] != first


class TestAlias:
    def test_set_list_remove(self, cli: Cli) -> None:
        """An alias stands for what is there until it is moved or dropped."""
        name = cli.ready("create", cli.spec()).out.strip()
        other = cli.ready("create", cli.spec("scipy", name="other.yml")).out.strip()
        assert cli("alias", "set", "prod", name, "--json").record == {"alias": "prod", "name": name}
        assert cli("alias", "set", "prod", other).code == 7
        assert cli("alias", "set", "prod", other, "--move").code == 0
        assert cli("alias", "list", "--json").record == {"aliases": [{"alias": "prod", "name": other}]}
        assert cli("alias", "list").out.splitlines()[1].split() == ["prod", other]
        assert cli("alias", "remove", "prod", "--json").record == {"alias": "prod", "name": other}
        assert cli("alias", "remove", "prod").code == 6
        assert cli("alias", "list", "--json").record == {"aliases": []}

    def test_of_nothing(self, cli: Cli) -> None:
        """An alias cannot stand for what is not there, and need not exist to be asked about."""
        assert cli("alias", "set", "prod", "env-0123456789abcdef").code == 6
        assert cli("alias", "remove", "prod").code == 6
        assert cli("alias", "list").code == 0
        assert not (cli.root / "envs").exists()

    @pytest.mark.parametrize("word", ["../x", "a/b", "..", "env-0123456789abcdef", "a\x00b", "a\nb", "-", "a" * 129])
    def test_what_cannot_be_one(self, cli: Cli, word: str) -> None:
        """What looks like a name or a path, or has odd characters, is no alias."""
        name = cli.ready("create", cli.spec()).out.strip()
        assert cli("alias", "set", word, name).code == 2
        assert cli("alias", "remove", word).code == 2
        assert [path.name for path in (cli.root / "envs").iterdir()] == [name]


class TestPin:
    def test_pin_and_unpin(self, cli: Cli) -> None:
        """A pin shows in list and show, and goes again; twice is once."""
        name = cli.ready("create", cli.spec()).out.strip()
        for _ in range(2):
            assert cli("pin", name, "--json").record == {"name": name, "is_pinned": True}
        assert "ready,pinned" in cli("list").out
        for _ in range(2):
            assert cli("unpin", name, "--json").record == {"name": name, "is_pinned": False}
        assert cli("show", name, "--json").record["is_pinned"] is False


class TestGc:
    def test_says_and_does(self, cli: Cli) -> None:
        """--dry-run names what gc then frees; whole environments stay."""
        name = cli.ready("create", cli.spec()).out.strip()
        stray = cli.root / "trash" / "stray"
        stray.mkdir()
        (stray / "file").write_bytes(b"x" * 10_000)
        planned = cli("gc", "--dry-run", "--json").record
        assert (planned["is_dry_run"], [Path(thing["path"]) for thing in planned["collected"]]) == (True, [stray])
        assert stray.exists()
        assert str(stray) in cli("gc", "--dry-run").out
        done = cli("gc", "--json").record
        assert done["freed_bytes"] == planned["freed_bytes"] > 0
        assert not stray.exists()
        assert cli("verify", name).code == 0

    def test_limits(self, cli: Cli) -> None:
        """--max-total and --min-age stand in for the settings; what is pinned or in use stays; the text says why."""
        name = cli.ready("create", cli.spec()).out.strip()
        other = cli.ready("create", cli.spec("scipy", name="other.yml"), "--alias", "prod").out.strip()
        assert cli("gc", "--max-total", "1B", "--json").record["collected"] == []
        limits = ("--max-total", "1B", "--min-age", "0")
        cli.ready("pin", name)
        with cli.using(other):
            assert cli("gc", *limits, "--json").record["collected"] == []
        cli.ready("unpin", name)
        planned = cli("gc", *limits, "--dry-run", "--json").record
        assert [thing["name"] for thing in planned["collected"] if thing["name"]] == [name, other]
        text = cli("gc", *limits, "--dry-run").out
        assert name in text
        assert "all together are" in text
        assert cli("gc", *limits, "--json").record["collected"] == planned["collected"]
        assert cli("list", "--json").record["environments"] == []
        for arguments in (("--max-age", "soon"), ("--max-total", "much"), ("--min-age", "-1")):
            assert cli("gc", *arguments).code == 2

    def test_without_a_store(self, cli: Cli) -> None:
        """Where there is no store there is nothing to free, and none is made."""
        assert cli("gc", "--json").record == {"is_dry_run": False, "freed_bytes": 0, "collected": []}
        assert not (cli.root / "envs").exists()
