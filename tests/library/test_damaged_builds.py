"""A published build whose files somebody damaged: library and launcher say so, as the command line does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.worlds import World, make_world, spec_of

import envmgr
from envmgr import activation
from envmgr.names import EnvName

LAUNCHER = (sys.executable, "-I", "-c", "from envmgr.launcher import main; main()")
CUT_OFF = activation.HEADER + b"set\0A"


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = make_world(tmp_path)
    (world.orders / "interpreter").write_text(shutil.which("true") or "", encoding="ascii")
    return world


@pytest.fixture
def name(world: World) -> EnvName:
    """An environment that is there, with a program in the place of its interpreter."""
    with_numpy = spec_of("numpy")
    world.manager().ensure(with_numpy).lease.close()
    return with_numpy.name


def damage(world: World, name: EnvName, data: bytes | None) -> None:
    """Replace the file of the changes of a published build, or take it away."""
    path = (world.layout.envs / name).resolve().parents[1] / activation.FILE_NAME
    path.unlink()
    if data is not None:
        path.write_bytes(data)


def launch(world: World, name: EnvName, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "ENVMGR_ROOT": str(world.root), "ENVMGR_ENV": name}
    return subprocess.run([*LAUNCHER, *arguments], env=environ, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("data", [None, b"", b"nonsense", CUT_OFF], ids=["missing", "empty", "foreign", "cut off"])
@pytest.mark.parametrize(
    "call",
    [
        envmgr.Environment.environ,
        envmgr.Environment.environ_changes,
        envmgr.Environment.activation,
        lambda environment: environment.run(["true"]),
    ],
    ids=["environ", "environ_changes", "activation", "run"],
)
def test_library_names_the_repair(
    world: World, name: EnvName, data: bytes | None, call: Callable[[envmgr.Environment], object]
) -> None:
    """Whatever needs the variables of a build without them is `Corrupt`, with the command that heals it."""
    damage(world, name, data)
    with envmgr.ensure(name, root=world.root) as environment, pytest.raises(envmgr.Corrupt) as refused:
        call(environment)
    assert refused.value.hint == f"envmgr repair {name}"
    assert "/activation" in refused.value.message


@pytest.mark.parametrize("data", [None, CUT_OFF], ids=["missing", "cut off"])
def test_launcher_names_the_repair(world: World, name: EnvName, data: bytes | None) -> None:
    """The launcher ends with the exit code of `Corrupt` and the hint, and nothing runs."""
    assert launch(world, name).returncode == 0
    damage(world, name, data)
    done = launch(world, name)
    assert (done.returncode, done.stdout) == (envmgr.Corrupt.exit_code, "")
    assert done.stderr.startswith("envmgr-python: ")
    assert done.stderr.endswith(f"hint: envmgr repair {name}\n")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "code"), [("#!/no/such/interpreter\n", 127), ("\x7fELF and no more", 126)], ids=["missing", "no program"]
)
def test_an_interpreter_that_cannot_be_executed(world: World, name: EnvName, text: str, code: int) -> None:
    """The launcher ends as a shell would, with one line on standard error that names the file."""
    python = (world.layout.envs / name).resolve() / "bin" / "python"
    python.unlink()
    python.write_text(text, encoding="ascii")
    python.chmod(0o755)
    done = launch(world, name)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(f"envmgr-python: cannot execute {python}: ")
    assert done.stderr.count("\n") == 1
