"""Ray with the plugin, on one cluster of two raylets that all tests here share; see also the examples."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray_cluster
from demo.packages import fabricate, index
from example_site import Site
from ray_cluster import Cluster

import envmgr
from envmgr.runners.ray import hook, runtime_env

pytestmark = [pytest.mark.slow, pytest.mark.runners]

DRIVER = Path(__file__).with_name("ray_driver.py")
SPEC: dict[str, object] = {"dependencies": ["python", "pip", {"pip": ["humanize"]}]}
NAME = envmgr.name(SPEC)
LIMIT_S = 120.0


@pytest.fixture(scope="module")
def cluster(
    site: Site, make_store: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """Two raylets with the plugin and one store, where the site's own environment is to be had, too."""
    directory = tmp_path_factory.mktemp("r")
    root = make_store(directory / "store")
    _borrow(site, root)
    variables = site.variables(root=root, home=directory) | {
        "RAY_RUNTIME_ENV_PLUGINS": ray_cluster.PLUGINS,
        "RUNTIME_ENV_RETRY_TIMES": "1",
        "BAD_RUNTIME_ENV_CACHE_TTL_SECONDS": "1",
    }
    (directory / "ray").mkdir()
    with ray_cluster.running(directory / "ray", variables) as found:
        yield found


def _borrow(site: Site, root: Path) -> None:
    """Publish the site's build in another store, too, without its bytes: an environment that has Ray."""
    build = site.environment.prefix.parents[1]
    for directory in ("builds", "envs"):
        (root / directory).mkdir()
    (root / "builds" / build.name).symlink_to(build)
    (root / "envs" / site.environment.name).symlink_to(f"../builds/{build.name}/envs/{site.environment.name}")
    (root / "envs" / "site").symlink_to(site.environment.name)


def _tasks(cluster: Cluster, *asked: tuple[dict[str, Any], str | None]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cluster.answer(DRIVER, "tasks", json.dumps(asked))
    return found


def _envmgr(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["envmgr", *arguments]
    return subprocess.run(
        command, env=cluster.variables, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )  # fmt: skip


def _root(cluster: Cluster) -> Path:
    return Path(cluster.variables["ENVMGR_ROOT"])


def test_many_tasks_of_two_raylets_share_one_build(cluster: Cluster) -> None:
    """Whatever the runtime_envs say else, and however the spec is written, its environment is built once.

    Each worker holds a lease of its own, runs on the environment's variables, and has Ray from the cluster, behind the
    environment's packages. The progress of the build stands in the setup's log.
    """
    text = "name: other\ndependencies:\n  - pip\n  - python\n  - pip: [humanize]\n"
    values: list[object] = [SPEC, {"spec": text, "overlay": True}]
    asked = [
        ({"envmgr": value, "env_vars": {"ADDED": f"${{HOME}}/{number}"}}, node)
        for number, value in enumerate(values)
        for node in ("n1", "n2")
    ]
    found = _tasks(cluster, *asked * 4)
    (build,) = (_root(cluster) / "builds").glob(f"{str(NAME).removeprefix('env-')[:12]}-*")
    prefix = str(build / "envs" / NAME)
    assert {task.get("prefix", task) for task in found} == {prefix}
    assert len({task["node"] for task in found}) == 2
    for number, task in enumerate(found):
        assert task["checked"] == prefix
        assert task["leases"] == [str(build / "lease")]
        assert task["humanize"].startswith(prefix)
        assert task["ray"].startswith(task["last_path"])
        environ = task["environ"]
        assert environ["CONDA_PREFIX"] == prefix
        assert environ["PATH"].startswith(f"{prefix}/bin:")
        assert environ["ADDED"] == f"{cluster.variables['HOME']}/{number % 4 // 2}"
        assert environ["PYTHONNOUSERSITE"] == "1"
    logs = "".join(path.read_text() for path in cluster.logs.glob("runtime_env_setup-*.log"))
    assert f"envmgr: {NAME} is ready: {prefix}" in logs
    assert "envmgr: link: " in logs


def test_an_environment_with_ray_of_its_own_uses_that(cluster: Cluster, site: Site) -> None:
    """Nothing is put behind an environment that has the cluster's version of Ray."""
    (found,) = _tasks(cluster, ({"envmgr": "site"}, None))
    prefix = str(site.environment.prefix)
    assert found["prefix"].endswith(f"/envs/{site.environment.name}")
    assert os.path.realpath(found["ray"]).startswith(prefix)
    assert os.path.realpath(found["last_path"]).startswith(prefix)


def test_what_cannot_be_had_or_used_is_said_within_seconds(cluster: Cluster, tmp_path: Path) -> None:
    """Each user reads why in a RuntimeEnvSetupError, in envmgr's own words; no task is left waiting."""
    python = f'#!/bin/sh\nexec {sys.executable} "$@"\n'
    fabricate(
        tmp_path / "channel", "elder", "1", files={"bin/python": python, "lib/python3.9/site-packages/README": ""}
    )
    fabricate(tmp_path / "channel", "bare", "1")
    index(tmp_path / "channel")
    channels = [(tmp_path / "channel").as_uri(), "nodefaults"]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"envmgr": "nobody"}, "EnvironmentNotFound: there is no environment 'nobody'"),
        ({"envmgr": {"dependencies": ["python=="]}}, "InvalidSpec: "),
        ({"envmgr": {"dependencies": ["no-such-package"]}}, "Unsatisfiable: "),
        ({"envmgr": "environment.yml"}, "UsageError: runtime_env['envmgr']: 'environment.yml' is a file"),
        ({"envmgr": SPEC, "py_executable": "python"}, "UsageError: runtime_env has envmgr and py_executable"),
        ({"envmgr": {"spec": SPEC, "overlay": False}}, "UnsuitableEnvironment: "),
        ({"envmgr": {"channels": channels, "dependencies": ["elder"]}}, "it has Python 3.9 and the cluster 3."),
        ({"envmgr": {"channels": channels, "dependencies": ["bare"]}}, "it has no interpreter"),
    ]
    found = _tasks(cluster, *((asked, None) for asked, _ in cases))
    for (asked, said), outcome in zip(cases, found, strict=True):
        assert outcome.get("error") == "RuntimeEnvSetupError", (asked, outcome)
        assert said in outcome["text"]
        assert outcome["seconds"] < 60


def test_the_lease_outlives_the_driver_and_ends_with_the_last_worker(cluster: Cluster) -> None:
    """While an actor lives whose driver is gone, removal is refused and names users; after it, removal works."""
    spec: dict[str, object] = {"dependencies": ["python", "pip", {"pip": ["humanize==4.9.0"]}]}
    name = str(envmgr.name(spec))
    prefix = cluster.answer(DRIVER, "hold", json.dumps({"envmgr": spec}))
    assert prefix.endswith(name)
    refused = _envmgr(cluster, "remove", name)
    assert refused.returncode == envmgr.EnvironmentInUse.exit_code, refused.stderr
    assert "(ray::Holder)" in refused.stderr
    cluster.answer(DRIVER, "release")
    deadline = time.monotonic() + LIMIT_S
    while (done := _envmgr(cluster, "remove", name)).returncode != 0:
        assert done.returncode == envmgr.EnvironmentInUse.exit_code, done.stderr
        assert time.monotonic() < deadline, done.stderr
        time.sleep(0.2)
    assert not Path(prefix).exists()


def test_a_setup_that_ray_gives_up_leaves_nothing_running(cluster: Cluster) -> None:
    """When setup_timeout_seconds are over, the build's processes end: whom they asked sees the connection close."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        channel = f"http://127.0.0.1:{silent.getsockname()[1]}/channel"
        spec = {"channels": [channel, "nodefaults"], "dependencies": ["anything"]}
        value = {"envmgr": {"spec": spec, "timeout_s": 500}, "config": {"setup_timeout_seconds": 2}}
        (found,) = _tasks(cluster, (value, None))
        assert found["error"] == "RuntimeEnvSetupError"
        assert "within the timeout of 2 seconds" in found["text"]
        silent.settimeout(LIMIT_S)
        connection, _ = silent.accept()
        with connection:
            connection.settimeout(LIMIT_S)
            while connection.recv(1 << 16):
                pass
    (found,) = _tasks(cluster, ({**value, "envmgr": {"spec": spec, "timeout_s": 0.5}}, None))
    assert "envmgr.errors.TimedOut: not ready within 0.5 s" in found["text"]


def test_a_node_without_the_plugin_does_not_run_it_in_a_wrong_python(cluster: Cluster) -> None:
    """What `runtime_env` and the hook write is refused there, in words; written by hand, the task's own check tells."""
    variables = {key: value for key, value in cluster.variables.items() if key != "RAY_RUNTIME_ENV_PLUGINS"}
    node = cluster.join("127.0.0.3", "n3", variables)
    try:
        node.wait_until_up()
        blank = {"env_vars": {"PYTHONPATH": ""}}  # the check travels with the task
        found = _tasks(
            cluster, ({**runtime_env(SPEC), **blank}, "n3"), (hook({"pip": ["humanize"]}), "n3"),
            ({"envmgr": SPEC, **blank}, "n3"), (runtime_env(SPEC), "n1"),
        )  # fmt: skip
    finally:
        node.stop()
    by_runtime_env, by_hook, by_hand, elsewhere = found
    for refused in (by_runtime_env, by_hook):
        assert refused["error"] == "RuntimeEnvSetupError"
        assert "the envmgr plugin is not registered on this node" in refused["text"]
    assert by_hand["error"] == "RayTaskError(RuntimeError)"
    assert "was started without envmgr's plugin" in by_hand["text"]
    assert elsewhere["prefix"].endswith(NAME)
