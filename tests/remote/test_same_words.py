"""The command line says the same with and without a daemon: exit codes, records, texts and progress."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import daemon_process
import pytest
from cli.command_line import Cli
from daemon_process import Place

from envmgr import errors

pytestmark = pytest.mark.slow  # real daemons
_TIMES = re.compile(r"\b\d{4}-\d\d-\d\dT[\d:]+Z|\b\d+\.\d+(?:e-\d+)?\b|\b\d{10,}\b")
# What it handed over, the daemon holds for a moment longer, and says so.
_HANDED_OVER = re.compile(r"\d+ \([^()]*program.py daemon\) \(lease\)|\{[^{}]*program.py daemon[^{}]*\}")


def _tell(cli: Cli, place: Place) -> list[str]:
    """Give many commands, and return what each said, without times and places."""
    told: list[str] = []

    def give(*words: str | Path) -> None:
        answer = cli(*words)
        lines = [line for line in answer.err.splitlines() if not line.startswith("envmgr: clearing leftovers")]
        text = f"{words} {answer.code}\n{answer.out}" + "\n".join(lines)
        text = _HANDED_OVER.sub("", text).replace("used by:       -", "used by:       ")
        told.append(_TIMES.sub("T", text.replace(str(place.directory), "DIR")))

    first, second = cli.spec("numpy"), cli.spec("scipy", label="second", name="second.yml")
    give("create", first, "--alias", "first")
    give("create", first, "--json")
    give("create", second, "--alias", "first")
    give("lock", second)
    give("lock", second, "--json")
    give("create", second, "--json")
    give("create", second, "--alias", "first", "--move")
    for words in (
        ("alias", "list"), ("alias", "set", "first", first), ("alias", "set", "third", first), ("pin", "third"),
        ("show", "third"), ("unpin", "third", "--json"), ("alias", "remove", "third"), ("alias", "remove", "third"),
        ("logs", first), ("verify", first, "--json"), ("relock", first), ("relock", first, "--json"),
        ("repair", first, "--json"), ("relock", "env-0000000000000000"), ("pin", "nobody"), ("gc", "--dry-run"),
    ):  # fmt: skip
        give(*words)
    cli.orders.fail(errors.Unsatisfiable("nothing provides it", hint="ask for less", packages=["a"]))
    third = cli.spec("pandas", name="third.yml")
    give("create", third, "--json")
    cli.orders.withdraw("fail")
    give("create", third)
    give("show", third, "--json")
    lockfile = cli.write("no lockfile", "lock.yml")
    give("create", cli.spec("rich", name="fourth.yml"), "--lockfile", lockfile)
    give("remove", second)
    give("remove", second)
    give("remove", first, "--forget", "--json")
    return told


def _told_in(directory: Path, monkeypatched: Callable[[str, str], None], *, is_served: bool) -> list[str]:
    directory.mkdir()
    with daemon_process.place(directory, is_served=is_served) as place:
        monkeypatched("HOME", str(directory))
        return _tell(Cli(directory), place)


def test_the_same_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each command's exit code, record, text and progress are those of one that has no daemon to ask."""
    alone = _told_in(tmp_path / "a", monkeypatch.setenv, is_served=False)
    served = _told_in(tmp_path / "b", monkeypatch.setenv, is_served=True)
    for without, through in zip(alone, served, strict=True):
        assert through == without


def test_who_frees_what_is_still_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only here the words differ: where a daemon runs it frees the files, and nobody has to give a command for it."""
    with daemon_process.place(tmp_path, is_served=True) as place:
        monkeypatch.setenv("HOME", str(place.directory))
        cli = Cli(place.directory)
        name = cli.ready("create", cli.spec()).out.strip()
        with cli.using(name) as pid:
            said = cli.ready("remove", name, "--when-free").err
    assert re.search(rf"stay while .*{pid} \(cat\).* runs, and the daemon frees them after that", said)
