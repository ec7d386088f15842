"""What a driver writes and what the plugin reads, without Ray: values, translations, requirements."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import envmgr
from envmgr.runners import requirements
from envmgr.runners.installed import Installed
from envmgr.runners.ray import hook, request, runtime_env, translation

PYTHON = f"python={sys.version_info.major}.{sys.version_info.minor}"
SPEC = {"dependencies": ["python", "numpy"]}
TEXT = "dependencies: [numpy, python]\n"
ARMED = {translation.TRIPWIRE_FIELD: translation.TRIPWIRE}


def has(python: str | None = "3.11", **versions: str) -> Installed:
    return Installed(Path("/prefix"), python, (), versions)


def problems(found: Installed, **options: Any) -> list[str]:
    return requirements.ray_problems(found, python="3.11", ray="2.60.0", **options)


def test_one_environment_has_one_uri() -> None:
    """Text, mapping and mapping of options count as uses of one environment; no value makes the question fail."""
    values: list[object] = [SPEC, TEXT, {"spec": TEXT, "overlay": False}, {"spec": SPEC, "timeout_s": 3}]
    assert {request.uri(value) for value in values} == {f"envmgr://{envmgr.name(SPEC)}"}
    assert request.uri({"name": str(envmgr.name(SPEC))}) == request.uri(SPEC)
    odd: list[object] = [3, {}, "a b", {"spec": "dependencies: [\n"}, {"spec": 1}, {1: 2}, object(), None]
    assert all(request.uri(value).startswith("envmgr://") for value in odd)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (3, "no name, alias or spec"),
        ({}, "either spec or name"),
        ({"spec": SPEC, "name": "x"}, "either spec or name"),
        ({"spec": SPEC, "overlays": True}, "'overlays'"),
        ({"spec": SPEC, "overlay": "yes"}, "overlay is true or false"),
        ({"spec": SPEC, "timeout_s": 0}, "timeout_s"),
        ({"spec": SPEC, "timeout_s": float("inf")}, "timeout_s"),
        ({"name": SPEC}, "no name, alias or spec"),
        ("environment.yml", "only the driver can read"),
        ({"spec": "/etc/environment.yml"}, "only the driver can read"),
        ("a b", "no name, alias or spec"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_wrong(value: object, said: str) -> None:
    """No value is guessed at, and a file of the driver is not looked for on a node."""
    with pytest.raises(envmgr.UsageError, match=said):
        request.read(value)


def test_what_a_job_sends_is_shown_cut_short() -> None:
    """No value is so long that its error is, too, and none brings a password into a log."""
    for value in ("x " * 10_000_000, {"name": ["https://me:secret@host/c"] * 10_000}, {"spec": SPEC, "y" * 9999: 1}):
        with pytest.raises(envmgr.UsageError) as refused:
            request.read(value)
        assert len(str(refused.value)) < 600
        assert "secret" not in str(refused.value)


def test_a_spec_with_a_name_is_a_spec() -> None:
    """A mapping with dependencies is never taken for options, though both may have a name."""
    document = {"name": "forecast", **SPEC}
    assert request.read(document) == request.Request(document)
    assert request.read({"name": "forecast"}) == request.Request("forecast")


def test_a_driver_sends_text_and_never_a_path(tmp_path: Path) -> None:
    """A file is read where the program runs; other fields stay; a node without the plugin will refuse it."""
    file = tmp_path / "environment.yml"
    file.write_text(TEXT.strip())
    found = runtime_env(file, timeout_s=9, overlay=False, env_vars={"A": "1"})
    assert found == {
        "envmgr": {"spec": TEXT, "timeout_s": 9, "overlay": False}, "env_vars": {"A": "1"}, **ARMED,
    }  # fmt: skip
    assert runtime_env("words") == {"envmgr": {"name": "words"}, **ARMED}
    with pytest.raises(envmgr.InvalidSpec):
        runtime_env({"dependencies": ["numpy=="]})
    file.write_text("dependencies: [python, pip, {pip: [-r more.txt]}]\n")
    with pytest.raises(envmgr.InvalidSpec):
        runtime_env(file)


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({"pip": ["requests"]}, {"dependencies": [PYTHON, "pip", {"pip": ["requests"]}]}),
        ({"uv": {"packages": ["requests"]}}, {"dependencies": [PYTHON, "pip", {"pip": ["requests"]}]}),
        ({"pip": {"packages": ["a"], "pip_check": True, "pip_version": "==1"}},
         {"dependencies": [PYTHON, "pip", {"pip": ["a"]}]}),
        ({"conda": SPEC}, SPEC),
        ({"conda": {"dependencies": ["numpy"]}}, {"dependencies": ["numpy", PYTHON]}),
        ({"conda": {"dependencies": ["conda-forge::python>=3.9"]}}, {"dependencies": ["conda-forge::python>=3.9"]}),
        ({"conda": {"dependencies": ["python-dateutil"]}}, {"dependencies": ["python-dateutil", PYTHON]}),
    ],
)  # fmt: skip
def test_what_rays_own_fields_ask_for_is_translated(given: dict[str, Any], made: dict[str, Any]) -> None:
    """The python is the driver's where none is named; Ray's internal marks go with the field that they belong to."""
    found = hook({**given, "working_dir": ".", "_ray_commit": "x"})
    assert found == {"working_dir": ".", "envmgr": {"spec": made, "overlay": True}, **ARMED}


def test_files_are_translated_where_the_program_runs(tmp_path: Path) -> None:
    """A file of requirements loses its comments; a conda file crosses as it is."""
    file = tmp_path / "requirements.txt"
    file.write_text("# ours\n\nrequests\\\n>=2  # any\nurllib3\n")
    found = hook({"pip": str(file)})
    assert found["envmgr"]["spec"]["dependencies"][-1] == {"pip": ["requests >=2", "urllib3"]}
    file = tmp_path / "environment.yaml"
    file.write_text(TEXT)
    assert hook({"conda": str(file)})["envmgr"] == {"spec": TEXT, "overlay": True}


@pytest.mark.parametrize(
    "given",
    [
        {"conda": "base"},
        {"conda": "/opt/conda/envs/base"},
        {"pip": {"packages": ["a"], "pip_install_options": ["--user"]}},
    ],
)
def test_what_cannot_be_translated_is_left_to_ray_and_said(
    given: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody knows how conda's own environments were made, and install options find other things elsewhere."""
    with caplog.at_level(logging.WARNING):
        assert hook(given) == given
    assert "is left to Ray" in caplog.text


def test_credentials_stay_on_the_driver(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever may look at the cluster sees a job's runtime_env: URLs go without credentials, which nobody would use."""
    file = tmp_path / "requirements.txt"
    file.write_text("--index-url https://me:secret@host/simple\nsix\n")
    channels = {"channels": ["https://host/t/secret/ours"], "dependencies": ["python"]}
    given = [{"pip": str(file)}, {"pip": file.read_text().splitlines()}, {"conda": channels}]
    made = [*map(hook, given), runtime_env(channels), runtime_env("dependencies: [six]  # https://me:secret@host\n")]
    assert "secret" not in str(made)
    assert [envmgr.name(it["envmgr"]["spec"]) for it in made[2:4]] == [envmgr.name(channels)] * 2
    assert "credentials in a URL are not used" in caplog.text


def test_what_asks_for_envmgr_or_for_nothing_stays() -> None:
    """The hook touches no value of envmgr's, and no job that asks for no environment."""
    assert hook({"envmgr": "words"}) == {"envmgr": "words", **ARMED}
    assert hook({"envmgr": "words", "_nsight": "default"}) == {"envmgr": "words", "_nsight": "default"}
    assert hook(None) == {}
    assert hook({"env_vars": {"A": "1"}}) == {"env_vars": {"A": "1"}}
    both = {"conda": SPEC, "pip": ["a"]}
    assert hook(both) == both


def test_an_impossible_list_is_refused_before_anything_is_sent() -> None:
    """The driver's own ray.init says what is wrong with a requirement."""
    with pytest.raises(envmgr.InvalidSpec):
        hook({"pip": ["requests=>2"]})


@pytest.mark.parametrize(
    ("found", "options", "said"),
    [
        (has(), {}, None),
        (has(ray="2.60.0"), {}, None),
        (has(None), {}, "no interpreter"),
        (has("3.10"), {}, "it has Python 3.10 and the cluster 3.11"),
        (has(ray="2.59.0"), {}, "it has ray 2.59.0 and the cluster 2.60.0"),
        (has(), {"overlay": False}, "it has no ray"),
        (has(), {"for_client": True}, None),
        (has(ray="2.60.0"), {"for_client": True}, "without grpcio"),
        (has(ray="2.60.0", grpcio="1.60"), {"for_client": True}, None),
        (
            has(protobuf="3.1"),
            {"needs": ["protobuf>=3.20.3"]},
            "it has protobuf 3.1, and the cluster's ray",
        ),
        (has(protobuf="4.1"), {"needs": ["protobuf>=3.20.3"]}, None),
        (has(grpcio="1.0"), {"needs": ["grpcio>=1.42; extra == 'client'"]}, None),
    ],
)
def test_what_no_worker_could_run_in_is_told(found: Installed, options: dict[str, Any], said: str | None) -> None:
    """Each environment in which a worker would die without a word has one sentence that says why, and what to do."""
    told = problems(found, **options)
    assert told == [] if said is None else len(told) == 1 and said in told[0]


def test_ray_is_imported_only_by_what_needs_it() -> None:
    """The hook, and whoever writes a runtime_env, work where no Ray is installed."""
    program = "import sys, envmgr.runners.ray; envmgr.runners.ray.hook({}); assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_overlay_is_for_its_own_python_and_hides_no_sitecustomize(tmp_path: Path) -> None:
    """The cluster's packages come last, another minor version gets none, and a hidden sitecustomize runs."""
    overlay = Path(translation.__file__).parent / "overlay"
    hidden, packages = tmp_path / "hidden", tmp_path / "packages"
    for directory in (hidden, packages):
        directory.mkdir()
    (hidden / "sitecustomize.py").write_text("print('hidden')\n")
    minor = PYTHON.removeprefix("python=")
    for told, last in ((f"{minor}:{packages}", True), (f"2.7:{packages}", False), ("", False)):
        done = subprocess.run(
            [sys.executable, "-c", "import sys; print(sys.path[-1])"],
            env={**os.environ, "PYTHONPATH": f"{overlay}:{hidden}", "ENVMGR_RAY_OVERLAY": told},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.splitlines()[0] == "hidden"
        assert (done.stdout.splitlines()[1] == str(packages)) is last


def test_a_list_that_names_ray_gets_the_drivers(tmp_path: Path) -> None:
    """One cluster has one version of Ray: a list that leaves it open means the one that runs."""
    information = tmp_path / "ray-9.8.7.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: ray\nVersion: 9.8.7\n")
    program = "from envmgr.runners.ray import hook; print(hook({'pip': ['ray[serve]', 'ray>=2', 'raydar']})['envmgr'])"
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    assert "['ray[serve]==9.8.7', 'ray>=2', 'raydar']" in done.stdout
