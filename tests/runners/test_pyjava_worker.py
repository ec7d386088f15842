"""pyjava's real worker, started as Byzer's JVM starts it (emulated: examples/byzer/jvm.py), in managed environments."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from example_site import Site
from jvm import PythonWorkerException, PythonWorkerFactory

import envmgr

pytestmark = [pytest.mark.runners, pytest.mark.slow]

_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


@pytest.fixture
def name(store: Path) -> str:
    """An environment that has Python alone, under the alias ``forecast``."""
    with envmgr.ensure({"dependencies": ["python"]}, root=store, alias="forecast") as environment:
        return environment.name


@pytest.fixture
def condahome(user: dict[str, str], tmp_path: Path) -> Path:
    home = tmp_path / "condahome"
    subprocess.run(["envmgr", "condahome", "install", home], env=user, check=True, capture_output=True)
    return home


@pytest.fixture
def engine(site: Site, user: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A JVM's variables; pyjava and what it needs come from the site, by the JVM's PYTHONPATH."""
    monkeypatch.chdir(tmp_path)  # a worker makes a directory where it is started
    [packages] = site.environment.prefix.glob("lib/python3.*[0-9]/site-packages")
    return {"HOME": user["HOME"], "ENVMGR_ROOT": user["ENVMGR_ROOT"], "PATH": _SYSTEM_PATH, "PYTHONPATH": str(packages)}


@pytest.fixture
def launcher(user: dict[str, str]) -> str:
    found = subprocess.run(["sh", "-c", "command -v envmgr-python"], env=user, check=True, capture_output=True)
    return found.stdout.decode().strip()


def _removed(user: dict[str, str], name: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["envmgr", "remove", name], env=user, capture_output=True, text=True, check=False)


def test_cells_run_in_the_environment(run_example: Callable[..., str]) -> None:
    """A worker starts by ``source activate``, a python shim or pythonExec; so do Ray's, its own and a cluster's."""
    run_example("byzer", timeout_s=280)


def test_activation_is_silent_and_instant(condahome: Path, name: str) -> None:
    """``source activate`` in a JVM's bash says nothing at all, and is over within a second."""
    text = f'source {condahome}/bin/activate forecast && [ "$CONDA_DEFAULT_ENV" = {name} ]'
    took_s = []
    for _ in range(3):
        began = time.monotonic()
        done = subprocess.run(["bash", "-c", text], env={"PATH": _SYSTEM_PATH}, capture_output=True, check=False)
        took_s.append(time.monotonic() - began)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert min(took_s) < 1


def test_a_worker_keeps_its_environment(
    condahome: Path, engine: dict[str, str], user: dict[str, str], name: str
) -> None:
    """The bash that activated is gone, and the worker has the lease: removal is refused and names it, until it ends."""
    with (
        closing(PythonWorkerFactory(f"source {condahome}/bin/activate forecast", engine)) as factory,
        closing(factory.worker()) as worker,
    ):
        os.kill(factory.pid, signal.SIGKILL)
        assert Path(f"/proc/{worker.pid}/exe").resolve().parts[-3] == name
        refused = _removed(user, name)
        assert refused.returncode == envmgr.EnvironmentInUse.exit_code, refused
        assert f" {worker.pid} (" in refused.stderr
    deadline = time.monotonic() + 20
    while (done := _removed(user, name)).returncode != 0:
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.1)


@pytest.mark.parametrize("way", ["activate", "shim", "pythonExec"])
def test_an_unknown_environment_is_said_to_be_unknown(
    condahome: Path, engine: dict[str, str], launcher: str, tmp_path: Path, way: str
) -> None:
    """The user sees at once what is missing and where, instead of a port that never comes."""
    (tmp_path / "shims").mkdir()
    (tmp_path / "shims" / "python").symlink_to(launcher)
    python_env = {
        "activate": f"source {condahome}/bin/activate nothing",
        "shim": f"export ENVMGR_ENV=nothing PATH={tmp_path}/shims:$PATH",
        "pythonExec": ":",
    }[way]
    python_exec = f"{launcher} --envmgr-env=nothing" if way == "pythonExec" else "python"
    began = time.monotonic()
    with pytest.raises(
        PythonWorkerException, match=r"Error from python worker:\n  .*there is no environment 'nothing'"
    ):
        PythonWorkerFactory(python_env, engine, python_exec)
    assert time.monotonic() - began < 5
