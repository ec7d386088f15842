"""The oldest and the newest interpreter that this machine has, as environments."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from conda_pythons import oldest_and_newest
from whole_hosts import SEARCH, Host, Job

CHECKOUT = Path(__file__).resolve().parents[2]
PYTHONS = oldest_and_newest()


@pytest.fixture(scope="module")
def range_host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """A host whose default channel has the oldest and the newest Python; the channel is kept in the checkout."""
    directory = CHECKOUT / ".test-channel" / "range"
    options = [word for executable in PYTHONS.values() for word in ("--python", str(executable))]
    command = [CHECKOUT / "scripts" / "demo_channel", directory, *options]
    made = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    url = made.stdout.splitlines()[-1]
    return Host(tmp_path_factory.mktemp("range") / "host", {"default_channels": [url]})


@pytest.mark.skipif(not PYTHONS, reason="no other interpreters that can be packed are on this machine")
@pytest.mark.parametrize("version", PYTHONS)
def test_environment_of_an_old_or_new_python(range_host: Host, version: str) -> None:
    """Its byte-code is compiled, an interpreter started by the stable path leases itself, remove names it."""
    record = range_host.create(range_host.spec(f"python ={version}", "rich"))
    assert record["python_version"].startswith(f"{version}.")
    assert record["warnings"] == []
    name, prefix = record["name"], Path(record["prefix"])
    sources = {path.stem for path in prefix.glob(f"lib/python{version}/json/*.py")}
    compiled = {path.name.partition(".")[0] for path in prefix.glob(f"lib/python{version}/json/__pycache__/*.pyc")}
    assert sources
    assert sources == compiled
    with Job([range_host.root / "envs" / name / "bin" / "python", "-u", "-c", SEARCH]) as job:
        assert job.ask("sys.prefix") == str(prefix)
        assert job.ask("__import__('json').__file__").startswith(str(prefix))
        assert job.ask("__import__('ssl') and __import__('sqlite3') and __import__('ctypes') and 'all'") != ""
        code, error = range_host.refused("remove", name)
        assert (code, [(user["pid"], user["how"]) for user in error["fields"]["users"]]) == (7, [(job.pid, "lease")])
        job.end()
    assert range_host.run("verify", name).code == 0
    assert range_host.ready("remove", name)["is_deleted"]
