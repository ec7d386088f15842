"""run and shell-hook: what goes into an environment."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import LIMIT_S, Cli

from envmgr import errors

SHELLS = [shell for shell in ("sh", "dash", "bash", "zsh", "ksh", "mksh") if shutil.which(shell)]


class TestRun:
    def test_exit_status_and_streams_are_the_commands(self, cli: Cli) -> None:
        """The command's own exit status, standard input, output and error; nothing of ours on standard output."""
        name = cli.ready("create", cli.spec()).out.strip()
        answer = cli.run("run", name, "--", "sh", "-c", "cat; echo err >&2; exit 42", stdin="hello")
        assert (answer.code, answer.out, answer.err) == (42, "hello", "err\n")

    def test_a_file_is_made_first(self, cli: Cli) -> None:
        """run FILE creates what is not there, telling so on standard error, and the next one finds it."""
        path = cli.spec()
        first = cli.run("run", path, "--", "echo", "out")
        second = cli.run("run", path, "--", "echo", "out")
        assert (first.code, first.out, "solving" in first.err) == (0, "out\n", True)
        assert (second.code, second.out, second.err) == (0, "out\n", "")
        assert len(cli.orders.directory.joinpath("begun").read_text().split()) == 1

    def test_names_and_aliases_must_be_there(self, cli: Cli) -> None:
        """run never creates from a name; it ends with 6 and says so without standard output."""
        for word in ("nothing", "env-0123456789abcdef"):
            answer = cli.run("run", word, "--", "echo")
            assert (answer.code, answer.out) == (6, "")
        assert not (cli.root / "builds").exists()

    def test_an_alias_whose_environment_is_gone(self, cli: Cli) -> None:
        """The error says what the alias stands for: after gc or remove, its own word would not help."""
        path = cli.spec()
        name = cli.ready("create", path, "--alias", "prod").out.strip()
        cli.ready("remove", path)
        for command in (("run", "prod", "--", "true"), ("shell-hook", "prod")):
            answer = cli(*command)
            assert answer.code == 6
            assert answer.err.startswith(f"envmgr: prod stands for {name}, which is not in {cli.root}\n")

    def test_activation_and_arguments(self, cli: Cli) -> None:
        """The environment's variables are set, PATH leads into it, and arguments pass unchanged (no shell)."""
        path = cli.write("dependencies:\n  - numpy\nvariables:\n  COLOUR: $HOME\n")
        prefix = cli("create", path, "--json").record["prefix"]
        program = "import json, os, sys; print(json.dumps([os.environ['PATH'], os.environ['COLOUR'], sys.argv[1:]]))"
        words = ["*", "$HOME", "a b", "--json", "--", ""]
        answer = cli.run("run", path, "--", sys.executable, "-c", program, *words)
        found = json.loads(answer.out)
        assert found[0].startswith(f"{prefix}/bin:")
        assert found[1:] == ["$HOME", words]

    def test_the_program_is_searched_in_the_environment_first(self, cli: Cli) -> None:
        """A program of the environment wins over one of the same name outside."""
        cli.orders.say("interpreter", shutil.which("true") or "")
        name = cli.ready("create", cli.spec()).out.strip()
        assert cli.run("run", name, "--", "python", "-c", "raise SystemExit(3)").code == 0

    def test_the_lease_is_the_commands_and_its_childrens(self, cli: Cli) -> None:
        """The environment cannot be removed while the command, or a child that outlives it, runs."""
        name = cli.ready("create", cli.spec(), "--alias", "prod").out.strip()
        # The child keeps standard output open, so reading it to the end waits for the child.
        process = cli.start("run", "prod", "--", "sh", "-c", "exec 3<&0; (read line <&3; echo over) & echo started")
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        assert process.wait(LIMIT_S) == 0
        assert cli("remove", name).code == 7
        out, _ = process.communicate("\n", timeout=LIMIT_S)
        assert out == "over\n"
        assert cli("remove", name).code == 0

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("command", "code"), [("no-such-program", 127), ("/no/such/program", 127), ("", 127), ("/etc/passwd", 126)]
    )
    def test_what_cannot_be_executed(self, cli: Cli, command: str, code: int) -> None:
        """Not found is 127 and not executable 126, as in a shell; with --json the error is a record."""
        name = cli.ready("create", cli.spec()).out.strip()
        answer = cli.run("run", name, "--", command)
        assert (answer.code, answer.out) == (code, "")
        assert answer.err.startswith(f"envmgr: {command}: ")
        record = cli.run("run", name, "--json", "--", command).record
        assert set(record["error"]) == {"code", "message", "hint", "is_transient", "fields"}

    def test_a_directory_is_not_executable(self, cli: Cli) -> None:
        """A directory is 126."""
        name = cli.ready("create", cli.spec()).out.strip()
        assert cli.run("run", name, "--", "/").code == 126

    def test_usage(self, cli: Cli) -> None:
        """A command is needed, behind -- where it has options; the spec cannot come from its standard input."""
        name = cli.ready("create", cli.spec()).out.strip()
        assert cli("run", name).code == 2
        assert cli("run", name, "--").code == 2
        assert cli("run", "-", "--", "true").code == 2
        assert "hint: with a unit" in cli("run", name, "--memory", "2", "--", "true").err
        without = cli("run", name, "sh", "-c", "true")
        assert (without.code, "behind --" in without.err) == (2, True)

    def test_a_failed_build_is_our_error(self, cli: Cli) -> None:
        """When the environment cannot be made, the command does not run and the error's exit code counts."""
        cli.orders.fail(errors.Unsatisfiable("no"))
        answer = cli.run("run", cli.spec(), "--json", "--", "echo", "ran")
        assert (answer.code, answer.record["error"]["code"]) == (4, "unsatisfiable")

    def test_signals_are_as_usual_in_the_command(self, cli: Cli) -> None:
        """What Python changes for itself (SIGPIPE ignored, SIGINT and SIGTERM caught) does not reach the command."""
        name = cli.ready("create", cli.spec()).out.strip()
        kinds = ("SigIgn", "SigCgt", "SigBlk")
        standard = (1 << 31) - 1  # those above are the C library's own, and not all of them are ours to set
        answer = cli.run("run", name, "--", "cat", "/proc/self/status")
        assert {int(line.split()[1], 16) & standard for line in answer.out.splitlines() if line[:6] in kinds} == {0}

    @pytest.mark.slow
    def test_damaged_variables(self, cli: Cli) -> None:
        """A build whose file of changes is cut off or gone is corrupt, and the hint names the repair."""
        record = cli("create", cli.spec(), "--json").record
        changes = Path(record["prefix"]).parents[1] / "activation"
        changes.write_bytes(changes.read_bytes()[:-1])
        for _ in range(2):
            for words in (["run", record["name"], "--json", "--", "true"], ["shell-hook", record["name"], "--json"]):
                answer = cli.run(*words)
                assert (answer.code, answer.record["error"]["hint"]) == (12, f"envmgr repair {record['name']}")
            changes.unlink(missing_ok=True)


class TestShellHook:
    def test_a_file_whose_environment_is_not_there(self, cli: Cli) -> None:
        """A spec's file is taken for one, and the hint is the command that makes its environment."""
        path = cli.spec()
        answer = cli("shell-hook", path)
        assert (answer.code, answer.out) == (6, "")
        assert f"the environment of {path} is not in {cli.root}" in answer.err
        assert f"hint: envmgr create {path} makes it" in answer.err

    def test_unknown_ends_without_output(self, cli: Cli) -> None:
        """What is not there: exit code 6 and nothing for eval to do; a file is not built."""
        for word in ("nothing", "env-0123456789abcdef", str(cli.spec())):
            answer = cli("shell-hook", word)
            assert (answer.code, answer.out) == (6, "")
        assert not (cli.root / "builds").exists()

    def test_json(self, cli: Cli) -> None:
        """The record has the text and what it leads to."""
        path = cli.spec()
        cli.ready("create", path)
        record = cli("shell-hook", path, "--json").record
        assert set(record) == {"name", "path", "prefix", "build_id", "script"}
        assert record["script"] == cli("shell-hook", path).out

    @pytest.mark.parametrize("shell", SHELLS)
    def test_activates_silently_and_holds_the_lease(self, cli: Cli, shell: str) -> None:
        """Evaluated twice under set -eu it prints nothing, activates once and holds one lease until the shell ends."""
        record = cli("create", cli.spec(), "--json").record
        hook = cli.write(cli("shell-hook", record["name"]).out, "hook")
        text = f'. {hook}; eval "$(cat {hook})"; echo "$PATH"; readlink /proc/$$/fd/* | grep -c lease; read line'
        with subprocess.Popen(
            [shell, "-euc", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline().startswith(f"{record['prefix']}/bin:")
            assert process.stdout.readline() == "1\n"
            refused = cli("remove", record["name"], "--json")
            assert refused.code == 7
            assert process.pid in [user["pid"] for user in refused.record["error"]["fields"]["users"]]
            out, err = process.communicate("\n", timeout=LIMIT_S)
        assert (process.returncode, out, err) == (0, "", "")
        assert cli("remove", record["name"]).code == 0

    @pytest.mark.parametrize("shell", SHELLS)
    def test_never_ends_the_shell(self, cli: Cli, shell: str) -> None:
        """Without flock, without the build, or with all low descriptors taken the shell goes on, silently."""
        record = cli("create", cli.spec(), "--json").record
        hook = cli.write(cli("shell-hook", record["name"]).out, "hook")
        cases = (
            f"PATH={cli.directory}; . {hook}; echo on",
            f"exec 3<&0 4<&0 5<&0 6<&0 7<&0 8<&0 9<&0; . {hook}; echo on",
        )
        for case in cases:
            done = subprocess.run([shell, "-euc", case], capture_output=True, text=True, timeout=LIMIT_S, check=False)
            assert (done.returncode, done.stdout, done.stderr) == (0, "on\n", "")
        cli.ready("remove", record["name"])
        done = subprocess.run([shell, "-euc", cases[1]], capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "on\n", "")

    @pytest.mark.parametrize("shell", SHELLS)
    def test_a_root_with_odd_characters(self, cli: Cli, shell: str) -> None:
        """A store whose path has quotes and spaces is quoted."""
        odd = Cli(cli.directory / 'it\'s a "$HOME"')
        shutil.copytree(cli.directory / "store", odd.root)
        (odd.directory / "orders").mkdir()
        record = odd("create", odd.spec(), "--json").record
        hook = odd.write(odd("shell-hook", record["name"]).out, "hook")
        done = subprocess.run(
            [shell, "-euc", '. "$1"; echo "$_envmgr_leases"', shell, str(hook)],
            capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip
        assert (done.stdout.strip(), done.stderr) == (record["build_id"], "")
        assert Path(record["prefix"]).is_dir()
