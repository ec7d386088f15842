"""name, create, lock, relock, repair."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest
from command_line import Cli

from envmgr import errors
from envmgr.errors import EnvmgrError

CREATED_KEYS = {
    "name", "label", "aliases", "path", "prefix", "build_id", "digest", "lock_digest", "machine_class", "created_at",
    "size_bytes", "packages", "python_version", "build_duration_s", "phases_s", "skipped_link_scripts", "warnings",
    "host", "envmgr_version", "built", "duration_s", "spec_warnings",
}  # fmt: skip


class TestName:
    def test_prints_the_name_and_nothing_else(self, cli: Cli) -> None:
        """Standard output is the name; nothing is said; no store is made."""
        answer = cli("name", cli.spec())
        assert re.fullmatch(r"env-[0-9a-f]{16}\n", answer.out)
        assert (answer.code, answer.err) == (0, "")
        assert not (cli.root / "envs").exists()

    def test_json(self, cli: Cli) -> None:
        """The record has what the text alone tells, each key always."""
        record = cli("name", cli.spec(label="mine"), "--json").record
        assert set(record) == {"name", "label", "digest", "is_lockfile", "spec_warnings"}
        assert record["label"] == "mine"

    def test_reads_standard_input(self, cli: Cli) -> None:
        """``-`` is standard input, and gives the same name as a file."""
        path = cli.spec()
        assert cli.run("name", "-", stdin=path.read_text()).out == cli("name", path).out

    def test_relative_file_in_the_working_directory(self, cli: Cli) -> None:
        """What ends in .yml is a file, without any ``/``."""
        cli.spec()
        assert cli.run("name", "environment.yml", cwd=cli.directory).code == 0

    def test_warnings_go_to_standard_error_once(self, cli: Cli) -> None:
        """An unknown key is a warning with its place, and the name is printed all the same."""
        path = cli.write("name: a\nsomething_else: 1\ndependencies:\n  - numpy\n")
        answer = cli("name", path)
        assert answer.code == 0
        assert answer.err.count(f"{path}:2:1: warning: ") == 1
        assert answer.err.count("\n") == 1
        assert len(cli("name", path, "--json", "-q").record["spec_warnings"]) == 1

    def test_warnings_belong_to_commands_about_the_document(self, cli: Cli) -> None:
        """name, lock and create say them; commands that only find the environment by its document do not."""
        path = cli.write("dependencies: [numpy, {pip: [six]}]\n")
        for command in ("name", "lock", "create"):
            assert "warning: " in cli.ready(command, path).err
        for command in ("show", "logs", "verify", "pin", "relock", "remove"):
            assert "warning: " not in cli.ready(command, path).err

    def test_quiet_keeps_warnings_back(self, cli: Cli) -> None:
        """--quiet leaves errors only."""
        assert cli("name", cli.write("something_else: 1\ndependencies:\n  - numpy\n"), "--quiet").err == ""


class TestBadDocuments:
    def test_every_problem_has_its_line(self, cli: Cli) -> None:
        """All problems are reported, as FILE:line:column: message (hint), with exit code 3."""
        path = cli.write("dependencies:\n  - pandas=>=1.0\n  - numpy\n  - 'a b c d'\n")
        answer = cli("name", path)
        assert answer.code == 3
        assert answer.out == ""
        assert f"{path}:2:" in answer.err
        assert f"{path}:4:" in answer.err

    def test_json_names_every_problem_and_the_source(self, cli: Cli) -> None:
        """The JSON error has the problems with line and column, and what document they are in."""
        path = cli.write("dependencies:\n  - pandas=>=1.0\n")
        answer = cli("create", path, "--json")
        error = answer.record["error"]
        assert (answer.code, error["code"]) == (3, "invalid_spec")
        assert error["fields"]["source"] == str(path)
        assert [problem["line"] for problem in error["fields"]["problems"]] == [2]

    @pytest.mark.parametrize(
        "data", [b"\x00\x01\x02\xff", b"\xff\xfe\x00", b"", b"\tdependencies:\n", b"- a\n- b\n", b"x: \x1b[31m\n"]
    )
    def test_what_is_no_document(self, cli: Cli, data: bytes) -> None:
        """Binary, empty and foreign documents: exit code 3, one message, no control characters."""
        path = cli.directory / "bad.yml"
        path.write_bytes(data)
        answer = cli("create", path)
        assert answer.code == 3
        assert "Traceback" not in answer.err
        assert "\x1b" not in answer.err
        assert not (cli.root / "builds").exists()

    def test_missing_file_and_directory(self, cli: Cli) -> None:
        """A file that is not there and a directory say so, by name."""
        missing = cli("create", cli.directory / "missing.yml")
        assert (missing.code, "No such file" in missing.err) == (3, True)
        directory = cli("create", f"{cli.directory}/")
        assert (directory.code, "Is a directory" in directory.err) == (3, True)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
    def test_unreadable_file(self, cli: Cli) -> None:
        """A file that may not be read says so."""
        path = cli.spec()
        path.chmod(0)
        answer = cli("create", path)
        assert (answer.code, "Permission denied" in answer.err) == (3, True)

    @pytest.mark.parametrize(
        "word", ["..", ".", "", "a b", "name\n", "\x1b[2J", "env-123", "ENV-0123456789abcdef", "é"]
    )
    @pytest.mark.parametrize("command", ["show", "remove", "logs", "verify", "repair", "relock", "pin", "shell-hook"])
    def test_words_that_are_no_name_and_no_file(self, cli: Cli, command: str, word: str) -> None:
        """A word that can be no alias is a usage error, shown without its control characters."""
        answer = cli(command, word)
        assert answer.code == 2
        assert answer.out == ""
        assert "\x1b" not in answer.err

    @pytest.mark.parametrize("word", ["../../etc/passwd", "/", "a/b", "env-0123456789abcdef/.."])
    def test_a_word_with_a_slash_is_a_file(self, cli: Cli, word: str) -> None:
        """No word leads out of the store: with ``/`` it is a file, which is read and refused."""
        assert cli("remove", word).code == 3


class TestCreate:
    def test_builds_and_prints_the_name(self, cli: Cli) -> None:
        """The name is all of standard output; phases and the end are told on standard error."""
        path = cli.spec()
        answer = cli("create", path)
        assert answer.code == 0
        assert answer.out == cli("name", path).out
        assert "envmgr: solving\n" in answer.err
        assert "was built in" in answer.err
        assert (cli.root / "envs" / answer.out.strip()).is_dir()

    def test_json_has_every_fact(self, cli: Cli) -> None:
        """The record has what the contract lists; `built` is true only for the call that built it."""
        path = cli.spec(label="mine")
        first = cli("create", path, "--json", "--alias", "prod").record
        second = cli("create", path, "--json").record
        assert set(first) == set(second) == CREATED_KEYS
        assert (first["built"], second["built"]) == (True, False)
        assert first["aliases"] == second["aliases"] == ["prod"]
        assert first["label"] == "mine"
        assert first["path"] == f"{cli.root}/envs/{first['name']}"
        assert Path(first["path"]).resolve() == Path(first["prefix"])
        assert first["prefix"] == second["prefix"]
        assert len(first["digest"]) == len(first["lock_digest"]) == 64
        assert set(first["phases_s"]) == {"solve", "link"}

    def test_second_time_says_nothing(self, cli: Cli) -> None:
        """An environment that is there is answered with its name and no words."""
        path = cli.spec()
        cli.ready("create", path)
        again = cli("create", path)
        assert (again.code, again.err) == (0, "")

    def test_seen_text_is_remembered(self, cli: Cli) -> None:
        """After create, the library finds the document's name without parsing it."""
        cli.ready("create", cli.spec())
        assert len(list((cli.root / "by-text").iterdir())) == 1

    def test_alias_is_never_moved_silently(self, cli: Cli) -> None:
        """A taken alias is refused before anything is built (exit code 7), unless --move."""
        cli.ready("create", cli.spec(), "--alias", "prod")
        other = cli.spec("scipy", name="other.yml")
        refused = cli("create", other, "--alias", "prod", "--json")
        assert (refused.code, refused.record["error"]["code"]) == (7, "alias_taken")
        assert len(list((cli.root / "builds").iterdir())) == 1
        moved = cli("create", other, "--alias", "prod", "--move", "--json").record
        assert moved["aliases"] == ["prod"]

    @pytest.mark.parametrize(
        "options",
        [
            ("--move",), ("--alias", "env-0123456789abcdef"), ("--alias", "../x"), ("--alias", "a\nb"),
            ("--lockfile", "missing.yml"), ("--timeout", "soon"), ("--timeout", "-1"), ("--timeout", "nan"),
            ("--timeout", "0"), ("--unknown",),
        ],
    )  # fmt: skip
    def test_options_that_make_no_sense(self, cli: Cli, options: tuple[str, ...]) -> None:
        """Nonsense is a usage error, found before anything is built."""
        answer = cli("create", cli.spec(), *options, "--json")
        assert (answer.code, answer.record["error"]["code"]) == (2, "usage")
        assert not (cli.root / "builds").exists()

    def test_a_name_is_no_spec(self, cli: Cli) -> None:
        """create makes what a file says; a word that is no file is refused, with a hint where such a file lies."""
        (cli.directory / "prod").write_text("dependencies: [numpy]\n")
        answer = cli.run("create", "prod", cwd=cli.directory)
        assert answer.code == 2
        assert "hint: to name the file of that name, write ./prod" in answer.err
        assert cli.run("create", "./prod", cwd=cli.directory).code == 0

    def test_time_limit(self, cli: Cli) -> None:
        """--timeout ends a build with exit code 8, and nothing of it is left."""
        cli.ready("create", cli.spec())
        before = cli.leftovers()
        cli.orders.say("hang")
        (cli.directory / "orders" / "hang").unlink()
        os.mkfifo(cli.directory / "orders" / "hang")
        answer = cli("create", cli.spec("scipy", name="other.yml"), "--timeout", "0.1", "--json")
        assert (answer.code, answer.record["error"]["code"]) == (8, "timed_out")
        assert answer.record["error"]["is_transient"] is True
        assert cli.leftovers() == before

    def test_retry_after_a_failure(self, cli: Cli) -> None:
        """A failure is remembered for a while; --retry tries again at once."""
        path = cli.spec()
        cli.orders.fail(errors.Unsatisfiable("no"))
        assert cli("create", path).code == 4
        cli.orders.withdraw("fail")
        assert cli("create", path).code == 4
        assert cli("create", path, "--retry").code == 0

    @pytest.mark.parametrize("code", sorted(errors.TABLE))
    def test_every_error_has_its_exit_code(self, cli: Cli, code: str) -> None:
        """Whatever class of error comes out of a build, message, hint and exit code are those of the one table."""
        error = errors.from_json({"code": code, "message": f"the {code} of it", "hint": "do that", "fields": {}})
        cli.orders.fail(error)
        answer = cli("create", cli.spec())
        assert answer.code == errors.TABLE[code].exit_code
        assert answer.out == ""
        assert f"envmgr: the {code} of it\nhint: do that\n" in answer.err
        record = cli("create", cli.spec(), "--json", "--retry").record
        assert set(record) == {"error"}
        assert set(record["error"]) == {"code", "message", "hint", "is_transient", "fields"}
        assert record["error"]["code"] == code

    def test_a_failed_build_leads_to_its_log(self, cli: Cli) -> None:
        """A failure of a step, which has no hint of its own, names the command that shows the log."""
        cli.orders.fail(errors.BuildFailed("it broke"))
        path = cli.spec()
        assert f"hint: envmgr logs {cli('name', path).out.strip()} " in cli("create", path).err

    def test_a_lockfile_that_is_none(self, cli: Cli) -> None:
        """A lockfile that cannot be read is refused with its problems and exit code 3; nothing is built."""
        path = cli.spec()
        for data in (b"\xff\xfe", b"package: 3\n", b"{"):
            (cli.directory / "bad-lock.yml").write_bytes(data)
            answer = cli("create", path, "--lockfile", cli.directory / "bad-lock.yml")
            assert (answer.code, answer.out, "lockfile" in answer.err) == (3, "", True)
            assert str(cli.directory / "bad-lock.yml") in answer.err
        assert list((cli.root / "builds").iterdir()) == []

    def test_lockfile_is_built_exactly(self, cli: Cli) -> None:
        """--lockfile installs what the file says; another one is refused with exit code 14."""
        path = cli.spec()
        locked = cli.directory / "locked.yml"
        cli.ready("lock", path, "-o", locked)
        record = cli("create", path, "--lockfile", locked, "--json").record
        assert record["built"] is True
        other = cli.directory / "other-lock.yml"
        cli.ready("lock", cli.spec("numpy", "scipy", name="other.yml"), "-o", other)
        answer = cli("create", path, "--lockfile", other)
        assert (answer.code, answer.err.startswith(f"envmgr: {other}: ")) == (14, True)


class TestOtherUsers:
    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
    def test_what_is_there_is_anybodys(self, cli: Cli) -> None:
        """Somebody who may not write the store gets what is there, and exit code 11 for what is not."""
        path = cli.spec()
        cli.ready("create", path)
        other = cli.spec("scipy", name="other.yml")
        there = cli.as_nobody("create", path, "--json")
        assert there.code == 0, there
        assert there.record["built"] is False
        missing = cli.as_nobody("create", other, "--json")
        assert (missing.code, missing.record["error"]["code"]) == (11, "permission")
        assert cli.as_nobody("list", "--json").code == 0
        assert cli.as_nobody("remove", path).code == 11


class TestLock:
    def test_prints_the_lockfile_and_builds_nothing(self, cli: Cli) -> None:
        """Standard output is the lockfile; no environment appears."""
        answer = cli("lock", cli.spec())
        assert answer.code == 0
        assert "version: 1" in answer.out
        assert list((cli.root / "envs").iterdir()) == []

    def test_json_with_and_without_a_file(self, cli: Cli) -> None:
        """The text is in the record, or in the file that -o names."""
        path, out = cli.spec(), cli.directory / "out.yml"
        record = cli("lock", path, "--json").record
        written = cli("lock", path, "-o", out, "--json").record
        assert out.read_text(encoding="utf-8") == record["lockfile"]
        assert (record["output"], written["output"]) == (None, str(out))
        assert written["lockfile"] is None
        assert record["lock_digest"] == written["lock_digest"]
        assert record["packages"] == 1

    def test_output_that_cannot_be_written(self, cli: Cli) -> None:
        """-o into a directory that is not there is a usage error that names it."""
        answer = cli("lock", cli.spec(), "-o", cli.directory / "no" / "where.yml")
        assert answer.code == 2
        assert os.strerror(errno.ENOENT) in answer.err


class TestReplacing:
    def test_relock_replaces_what_changed(self, cli: Cli) -> None:
        """relock finds newer packages and republishes; a second one finds nothing new."""
        name = cli.ready("create", cli.spec()).out.strip()
        cli.orders.say("version", "2.0")
        first = cli("relock", name, "--json").record
        assert first["is_new"] is True
        assert first["build_id"] != first["old_build_id"]
        assert Path(first["path"]).resolve() == Path(first["prefix"])
        assert cli("relock", name, "--json").record["is_new"] is False
        assert "solved again, has the newest packages already" in cli("relock", name).err

    @pytest.mark.parametrize("date", ["yesterday", "2026-13-01", ""])
    def test_relock_wants_a_date(self, cli: Cli, date: str) -> None:
        """--exclude-newer takes a date or a time and nothing else."""
        name = cli.ready("create", cli.spec()).out.strip()
        assert cli("relock", name, "--exclude-newer", date).code == 2
        assert cli("relock", name, "--exclude-newer", "2026-01-31").code == 0

    def test_repair_builds_again(self, cli: Cli) -> None:
        """What verify found (exit code 12) is gone after repair."""
        path = cli.spec()
        record = cli("create", path, "--json").record
        assert cli("verify", path).code == 0
        damaged = Path(record["prefix"]) / "share" / "numpy"
        damaged.chmod(0o644)
        damaged.write_text("other")
        found = cli("verify", path, "--json")
        assert found.code == 12
        assert found.record["is_whole"] is False
        assert [Path(damage["path"]).name for damage in found.record["damages"]] == ["numpy"]
        assert str(damaged) in cli("verify", path).out
        repaired = cli("repair", path, "--json").record
        assert repaired["build_id"] != record["build_id"]
        assert cli("verify", path, "--json").record == {"name": record["name"], "is_whole": True, "damages": []}

    @pytest.mark.slow
    @pytest.mark.parametrize("command", ["relock", "repair", "pin", "unpin", "verify", "logs", "show", "remove"])
    @pytest.mark.parametrize("word", ["env-0123456789abcdef", "nothing", "environment.yml"])
    def test_what_is_not_there(self, cli: Cli, command: str, word: str) -> None:
        """Commands about something that is not there: exit code 6, and no store comes into being."""
        cli.spec()
        answer = cli.run(command, word, "--json", cwd=cli.directory)
        assert (answer.code, answer.record["error"]["code"]) == (6, "not_found")
        assert not (cli.root / "builds").exists()


def test_errors_table_is_complete() -> None:
    """Each class of error has an exit code of the documented range."""
    assert {cls.exit_code for cls in errors.TABLE.values()} == {*range(1, 17), 130}
    assert errors.TABLE[EnvmgrError.code] is EnvmgrError
