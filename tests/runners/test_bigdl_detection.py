"""How BigDL finds out in which environment it runs, and packs it (python/dllib/src/bigdl/dllib/utils/utils.py, 2.x)."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

import pytest

import envmgr
from envmgr.runners.condahome.installation import install

pytestmark = pytest.mark.slow

# Both forms of the call are in BigDL's releases; of the first, the shell runs `conda` alone. A line of exactly two
# fields tells the active environment; else the interpreter's path does, where it has "envs" in it.
_DETECTION = """
import json, subprocess, sys

def detected(call):
    asked = subprocess.Popen(call, shell=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said = asked.communicate()[0].decode()
    if asked.returncode != 0:
        return "no conda"
    for line in said.split("\\n"):
        fields = line.split(":")
        if len(fields) == 2 and fields[0].strip() == "active environment":
            return fields[1].strip()
    return sys.executable.split("/")[-3] if "envs" in sys.executable else None

print(json.dumps([detected(["conda", "info"]), detected("conda info")]))
"""


@pytest.fixture
def name(store: Path) -> str:
    with envmgr.ensure({"dependencies": ["python"]}, root=store, alias="forecast") as environment:
        return environment.name


def test_the_environment_is_detected_and_packed(
    store: Path, name: str, tmp_path: Path, clean_environ: dict[str, str]
) -> None:
    """With the conda home in PATH the name is found, activated or started by its path, and its archive is had."""
    home = install(tmp_path / "condahome", store, lambda _words: None).home
    (tmp_path / "detect.py").write_text(_DETECTION)
    path = {**clean_environ, "PATH": f"{home}/bin:/usr/bin:/bin"}
    by_path = [store / "envs" / name / "bin" / "python", "detect.py"]
    activated = ["bash", "-c", "source activate forecast && exec python detect.py"]
    for command in (by_path, activated):
        done = subprocess.run(command, env=path, cwd=tmp_path, stdout=subprocess.PIPE, check=True)
        assert json.loads(done.stdout) == [name, name]
    packing = f"conda pack --format tar.gz --n-threads 8 -f -n {name} -o {tmp_path}/python_env.tar.gz"
    subprocess.run(packing, shell=True, env=path, check=True, stdout=subprocess.PIPE)
    with tarfile.open(tmp_path / "python_env.tar.gz") as archive:
        assert "bin/python" in archive.getnames()
