"""The conda home under many callers at one moment, callers that are killed, and removals while somebody works."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
from answers import ended
from conda_homes import CondaHome

import envmgr
from envmgr import wiring
from envmgr.errors import EnvironmentInUse

pytestmark = pytest.mark.slow
CALLERS = 50
ENGINE = (
    'read _; C=$H/bin/conda; "$C" --help > help || exit 90; "$C" env list --json > list.$$ || exit 91; '
    '"$C" env create -n "$N" --file "$F" || { "$C" env remove -y -n "$N"; exit 92; }'
)
"""What an MLSQL engine does, once somebody lets it."""


@pytest.fixture
def conda(store: Path, tmp_path: Path) -> CondaHome:
    return CondaHome(tmp_path, store)


def test_many_callers(conda: CondaHome) -> None:
    """Fifty engines with five names and texts that differ in words only: one build, success for all, every name."""
    names = [f"mlflow-app{number}-77" for number in range(5)]
    files = [conda.spec(name, f"# {name}\nname: {name}\ndependencies: [python]\n") for name in names]
    gate, opener = os.pipe()
    callers = [
        conda.start(
            "sh", "-c", ENGINE, stdin=gate,
            env={**conda.environ, "H": str(conda.path), "N": names[number % 5], "F": str(files[number % 5])},
        )
        for number in range(CALLERS)
    ]  # fmt: skip
    os.close(gate)
    os.close(opener)
    answers = [ended(caller) for caller in callers]
    assert {(answer.code, answer.err) for answer in answers} == {(0, "")}, answers
    assert sum("was built" in answer.out for answer in answers) == 1
    assert len({conda.stands_for(name) for name in names}) == 1
    assert [build.rpartition("-")[2] for build in conda.builds()] == ["1"]
    listed = json.loads(conda.ok("env", "list", "--json"))["envs"]
    assert {os.path.basename(path) for path in listed} == {*names, conda.stands_for(names[0])}


def test_a_caller_is_killed(conda: CondaHome) -> None:
    """SIGKILL in the middle of a build: nothing is listed, the next caller builds; the first's clean-up takes nothing.

    The engine is this process for the first caller, and a shell for the second.
    """
    file = conda.spec("training")
    process = conda.start(conda.path / "bin" / "conda", "env", "create", "-n", "mine", "--file", file)
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(("unpack", "link")):
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.read()
        assert process.wait() == -signal.SIGKILL
    assert json.loads(conda.ok("env", "list", "--json")) == {"envs": []}
    engine = f'"{conda.path}/bin/conda" env create -n mine --file "{file}"; exit $?'
    assert "was built" in conda.shell(engine, shell=("sh", "-c")).out
    assert "nothing to remove" in conda.ok("env", "remove", "-y", "-n", "mine")
    assert os.access(conda.path / "envs" / "mine" / "bin" / "python", os.X_OK)
    assert len(conda.builds()) == 1


def test_two_engines_of_one_process(conda: CondaHome) -> None:
    """Of two that create one name at one time, the one that fails clears nothing away, though the other succeeded."""
    good, bad = conda.spec("good"), conda.spec("bad", "dependencies: [\n")
    engines = (
        f'"$C" env create -n mine -f {good} >out & '
        "until grep -qs unpack out; do sleep 0.01; done; "
        f'"$C" env create -n mine -f {bad} && exit 90; wait; "$C" env remove -y -n mine; exit $?'
    )
    assert "nothing to remove" in conda.shell(f"C=$H/bin/conda; {engines}").out
    assert os.access(conda.path / "envs" / "mine" / "bin" / "python", os.X_OK)


def test_what_nobody_clears_away_is_forgotten(conda: CondaHome, tmp_path: Path) -> None:
    """What failed a day ago and whose engine is gone, is; that of an engine that runs still, and of today, is not."""
    conda.environ["TMPDIR"] = str(tmp_path)
    bad = conda.spec("bad", "dependencies: [\n")
    engine = f'"$H/bin/conda" env create -n {{}} -f {bad} && exit 90; exit 0'
    for name in ("gone", "recent"):
        assert conda.shell(engine.format(name)).code == 0
    assert conda("env", "create", "-n", "running", "-f", bad).code == 1
    [directory] = tmp_path.glob("envmgr-condahome-*")
    notes = {path.name.rpartition("-")[2]: path for path in directory.iterdir()}
    yesterday = time.time() - 86400 - 60
    for name in ("gone", "running"):
        os.utime(notes[name], (yesterday, yesterday))
    assert conda.shell(engine.format("new")).code == 0
    left = {path.name.rpartition("-")[2] for path in directory.iterdir()}
    assert (set(notes), left) == ({"gone", "recent", "running"}, {"recent", "running", "new"})


def test_removal_while_somebody_works(conda: CondaHome) -> None:
    """The name goes, the environment is not to be had by anybody's removal until the shell that activated it ends."""
    conda.ok("env", "create", "-n", "used", "--file", conda.spec("training"))
    name = envmgr.ensure("used", root=conda.root)
    name.close()
    text = f". {conda.path}/bin/activate used && echo active && read _ && python -c 'print(1)'"
    worker = conda.start("bash", "-c", text)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "active\n"
    conda.ok("env", "remove", "-y", "-n", "used")
    assert conda("run", "-n", "used", "true").code == 1
    front = wiring.front(str(conda.root))
    with pytest.raises(EnvironmentInUse) as refused:
        front.remove(name.name)
    assert [user.pid for user in refused.value.users] == [worker.pid]
    assert ended(worker, "go\n").out == "1\n"
    assert front.remove(name.name).is_deleted
