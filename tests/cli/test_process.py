"""What surrounds every command: JSON everywhere, signals, pipes, unexpected errors, start-up."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from command_line import LIMIT_S, PROGRAM, Cli

import envmgr
from envmgr.cli.app import command
from envmgr.cli.options import seconds
from envmgr.cli.progress import amount_of
from envmgr.errors import UsageError
from envmgr.events import Event

pytestmark = pytest.mark.slow  # each test is a few programs from their start to their end


def _leaves(tree: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    children = getattr(tree, "commands", None)
    if children is None:
        yield words
        return
    for name in tree.list_commands(None):  # some groups load their commands here
        yield from _leaves(tree.get_command(None, name), (*words, name))


COMMANDS = list(_leaves(command()))


class TestEveryCommand:
    def test_the_list(self) -> None:
        """The commands are those of the contract."""
        assert {" ".join(words) for words in COMMANDS} == {
            "name", "create", "run", "shell-hook", "list", "show", "logs", "remove", "lock", "relock", "verify",
            "repair", "pin", "unpin", "gc", "doctor", "settings", "alias set", "alias list", "alias remove",
            "spark-conf", "pack", "lint", "daemon", "status", "service install", "service status", "service uninstall",
            "cluster create", "cluster remove", "cluster status", "cluster hosts", "cluster show", "cluster why",
            "cluster retry", "cluster heal", "cluster cordon", "cluster uncordon", "cluster forget", "cluster relock",
            "cluster settings", "cluster export", "cluster import", "cluster alias set", "cluster alias list",
            "cluster alias remove", "bundle export", "bundle import", "condahome install",
        }  # fmt: skip

    @pytest.mark.parametrize("words", [words for words in COMMANDS if words != ("daemon",)], ids=" ".join)
    def test_help_and_json(self, cli: Cli, words: tuple[str, ...]) -> None:
        """Every command that answers has help, --json and --quiet; a usage error is a JSON record with exit code 2."""
        help_text = cli(*words, "--help")
        assert (help_text.code, help_text.err) == (0, "")
        assert "--json" in help_text.out
        assert "--quiet" in help_text.out
        answer = cli(*words, "--no-such-option", "--json")
        assert (answer.code, answer.record["error"]["code"]) == (2, "usage")
        assert set(answer.record["error"]) == {"code", "message", "hint", "is_transient", "fields"}
        assert answer.err == ""

    def test_root_behind_the_command(self, cli: Cli) -> None:
        """--root stands before the command; behind it, the hint says so."""
        answer = cli("alias", "list", "--root", "/nowhere")
        assert answer.code == 2
        assert "hint: --root stands before the command: envmgr --root DIR alias list" in answer.err

    def test_an_option_without_its_value(self, cli: Cli) -> None:
        """The hint is the help of the command whose option it is."""
        answer = cli("alias", "set", "a", "b", "--json", "--quiet", "--no-such")
        assert answer.record["error"]["hint"] == "envmgr alias set --help"
        answer = cli("pack", "forecast", "--output")
        assert (answer.code, answer.err.splitlines()[-1]) == (2, "hint: envmgr pack --help")

    def test_main_help_has_the_exit_codes(self, cli: Cli) -> None:
        """The table of exit codes is in the main help, line by line."""
        lines = cli("--help").out.splitlines()
        assert any(line.split() == ["0", "done", "9", "busy,", "daemon", "or", "coordinator", "away"] for line in lines)

    def test_without_a_command(self, cli: Cli) -> None:
        """No command at all: the help on standard error, exit code 2."""
        answer = cli()
        assert (answer.code, answer.out) == (2, "")
        assert "Usage: envmgr" in answer.err

    def test_unknown_command(self, cli: Cli) -> None:
        """A misspelt command is answered with the one that was meant."""
        answer = cli("creat")
        assert answer.code == 2
        assert "'create'" in answer.err

    def test_version(self, cli: Cli) -> None:
        """--version prints the version."""
        assert cli("--version").out == f"envmgr {envmgr.__version__}\n"

    def test_as_a_module(self, cli: Cli) -> None:
        """python -m envmgr is the command line."""
        done = subprocess.run(
            [sys.executable, "-m", "envmgr", "name", cli.spec()], capture_output=True, text=True, check=True
        )
        assert done.stdout.startswith("env-")


class TestTheEnd:
    @pytest.mark.parametrize(
        "before",
        [
            "import atexit; atexit.register(print, 'done')",
            "import threading as t; t.Thread(target=lambda: (t.main_thread().join(), print('done'))).start()",
        ],
        ids=["atexit", "thread"],
    )
    def test_nothing_is_cut_off(self, before: str) -> None:
        """What is registered for the end happens, and a thread is waited for; the exit code is the command's."""
        program = f"{before}; from envmgr.cli import run_and_exit; run_and_exit()"
        done = subprocess.run([sys.executable, "-c", program, "creat"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "done\n")


class TestStartUp:
    def test_name_imports_little(self, cli: Cli) -> None:
        """name loads the parser and Typer, and nothing of what builds, draws or validates."""
        program = (
            "import sys; from envmgr.cli import main; code = main(sys.argv[1:]); "
            "print(sorted({name.partition('.')[0] for name in sys.modules} | "
            "{name for name in sys.modules if name.startswith('envmgr.')}), file=sys.stderr); sys.exit(code)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, "name", cli.spec()], capture_output=True, text=True, check=True
        )
        loaded = set(json.loads(done.stderr.replace("'", '"')))
        assert {"typer", "yaml", "envmgr.spec"} <= loaded
        assert not loaded & {
            "rich", "pydantic", "filelock", "psutil", "packaging", "conda_lock", "rattler", "click", "asyncio",
            "envmgr.manager", "envmgr.store", "envmgr.settings", "envmgr.wiring", "envmgr.backends", "envmgr.lockfile",
        }  # fmt: skip

    def test_list_imports_no_more_for_a_daemon(self, cli: Cli) -> None:
        """list asks a daemon without loading the wire's records, an HTTP library, or what manages a store."""
        program = (
            "import sys; from envmgr.cli import main; code = main(sys.argv[1:]); "
            "print(*sys.modules, file=sys.stderr); sys.exit(code)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, "list", "-q"], capture_output=True, text=True, check=True,
            env=cli.environ(),
        )  # fmt: skip
        assert "envmgr.remote.looking" in done.stderr.split()
        assert not set(done.stderr.split()) & {
            "envmgr.wire.socket", "envmgr.wiring", "envmgr.settings", "http.client", "asyncio", "filelock", "yaml",
        }  # fmt: skip


class TestSignals:
    @pytest.mark.parametrize(
        ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)], ids=str
    )
    def test_nothing_is_left(self, cli: Cli, number: signal.Signals, code: int) -> None:
        """A signal in the middle of a build ends it with 128 + its number; no build, no lock and no process is left."""
        path = cli.spec()
        cli.orders.hang()
        process = cli.start("create", path, "--json")
        cli.orders.wait_started()
        process.send_signal(number)
        out, _ = process.communicate(timeout=LIMIT_S)
        assert process.returncode == code
        assert json.loads(out)["error"]["code"] == "cancelled"
        assert cli.leftovers() == []
        cli.orders.withdraw("hang")
        cli.orders.withdraw("started")
        assert cli("create", path).code == 0

    def test_ignored_signals_stay_ignored(self, cli: Cli) -> None:
        """Under nohup, SIGHUP does not end a build."""
        cli.orders.hang()
        words = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", sys.executable, PROGRAM, "create", cli.spec(), "--quiet"]
        with subprocess.Popen(words, env=cli.environ(), stdout=subprocess.DEVNULL) as process:
            cli.orders.wait_started()
            process.send_signal(signal.SIGHUP)
            cli.orders.release()
            assert process.wait(LIMIT_S) == 0


class TestStreams:
    def test_a_reader_that_went_away(self, cli: Cli) -> None:
        """When nobody reads standard output, the command ends silently, with the status of SIGPIPE or its own error."""
        cases = (("list", "", 141), ("list", "1", 141), ("--help", "1", 141), ("show a --json", "", 6))
        for words, unbuffered, code in cases:
            read, write = os.pipe()
            os.close(read)
            answer = cli.run(*words.split(), stdout=write, env={**cli.environ(), "PYTHONUNBUFFERED": unbuffered})
            os.close(write)
            assert (answer.code, answer.err) == (code, "")

    def test_a_full_disk(self, cli: Cli) -> None:
        """An answer that cannot be written is an error, not a success."""
        with open("/dev/full", "w") as full:
            answer = cli.run("list", stdout=full)
        assert answer.code == 1
        assert answer.err == "envmgr: cannot write to standard output: No space left on device\n"

    def test_nobody_listens_to_words(self, cli: Cli) -> None:
        """A closed standard error is no reason to stop."""
        for unbuffered in ("", "1"):
            read, write = os.pipe()
            os.close(read)
            environ = {**cli.environ(), "PYTHONUNBUFFERED": unbuffered}
            answer = cli.run("create", cli.spec(f"numpy{unbuffered}"), stderr=write, env=environ)
            os.close(write)
            assert (answer.code, answer.out.startswith("env-")) == (0, True)

    def test_any_locale(self, cli: Cli) -> None:
        """Labels outside the locale's characters do not break an answer."""
        cli.ready("create", cli.spec(label="grün"))
        environ = {**cli.environ(), "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
        answer = cli.run("list", env=environ)
        assert (answer.code, "grün" in answer.out) == (0, True)
        assert cli.run("list", "--json", env=environ).record["environments"][0]["label"] == "grün"

    def test_on_a_terminal(self, cli: Cli) -> None:
        """On a terminal there are bars and a drawn table, and the name is still a line of its own."""
        for words in (["create", str(cli.spec(label="mine"))], ["list"]):
            code, text = _on_terminal(cli, *words)
            assert (code, "env-" in text) == (0, True)
        assert "just now" in text or "ago" in text

    def test_unexpected_errors(self, cli: Cli) -> None:
        """A defect is one line with a hint, exit code 1; --debug and --json tell where it happened."""
        (cli.root / "owner").mkdir()
        answer = cli("list")
        assert answer.code == 1
        assert "Traceback" not in answer.err
        assert "hint: " in answer.err
        assert "Traceback" in cli("--debug", "list").err
        assert "Traceback" in "".join(cli("list", "--json").record["error"]["fields"]["traceback"])


def _on_terminal(cli: Cli, *words: str) -> tuple[int, str]:
    """Run a command whose standard output and error are a terminal; return its exit code and what was drawn."""
    ours, theirs = pty.openpty()
    process = cli.start(*words, stdout=theirs, stderr=theirs, env={**cli.environ(), "TERM": "xterm", "COLUMNS": "200"})
    os.close(theirs)
    data = b""
    try:
        while select.select([ours], [], [], LIMIT_S)[0]:
            try:
                block = os.read(ours, 1 << 16)
            except OSError:  # EIO: the other side is closed
                break
            if not block:
                break
            data += block
    finally:
        os.close(ours)
        process.communicate(timeout=LIMIT_S)
    return process.returncode, data.decode()


class TestSmallThings:
    def test_seconds(self) -> None:
        """--timeout is a positive, finite number."""
        assert (seconds(None), seconds("1.5")) == (None, 1.5)
        for text in ("", "0", "-1", "inf", "1e999", "nan", "1 s"):
            with pytest.raises(UsageError):
                seconds(text)

    def test_amounts(self) -> None:
        """Progress is told in its unit, and without a total where none is known."""
        assert amount_of(Event("progress", "fetch", done=1024, total=2048, unit="bytes")) == "1.0 KiB/2.0 KiB"
        assert amount_of(Event("progress", "link", done=1, total=3, unit="packages")) == "1/3 packages"
        assert amount_of(Event("progress", "fetch", done=1024, unit="bytes")) == "1.0 KiB"
