"""What it costs Byzer's engine to start pyjava's daemon in an environment, against an interpreter by its path."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from functools import partial

import example_site

from benchmarks.measuring import BenchError, Figure, Rounds, in_turn
from benchmarks.workspace import Workspace

sys.path.append(str(example_site.EXAMPLES / "byzer"))
import jvm

_MS = 1e-3


def starting(work: Workspace, *, is_quick: bool) -> list[Figure]:
    """Time from the start of bash to the daemon's port: then a worker can be had. Most of it imports pandas."""
    settings = (work.new_store("pyjava-settings", work.channel) / "settings.toml").read_text(encoding="utf-8")
    site = example_site.prepare(work.run.parent / "site", settings)
    with site.environment as environment:
        root = environment.prefix.parents[3]
        home = work.run / "pyjava-condahome"
        work.envmgr(root, "condahome", "install", home)
        shims = work.run / "shims"
        shims.mkdir()
        (shims / "python").symlink_to(work.bin / "envmgr-python")
        started = partial(_started, {"HOME": str(work.home), "ENVMGR_ROOT": str(root), "PATH": "/usr/bin:/bin"})
        activated, shimmed, bare, again = in_turn(
            Rounds(7 if is_quick else 31, 5, 90),
            [
                partial(started, f"source {home}/bin/activate site"),
                partial(started, f"export ENVMGR_ENV=site PATH={shims}:$PATH"),
                partial(started, ":", f"{environment.prefix}/bin/python"),
                partial(started, ":", f"{environment.prefix}/bin/python"),
            ],
        )
    by_path = "its interpreter by its path"
    return [
        Figure("pyjava", "start of pyjava.daemon, source activate", activated, "difference", bare, by_path, 50 * _MS),
        Figure("pyjava", "start of pyjava.daemon, python shim", shimmed, "difference", bare, by_path, 50 * _MS),
        Figure("pyjava", "start of pyjava.daemon, source activate", activated, "ratio", bare, by_path),
        Figure("pyjava", "noise: by its path", again, "difference", bare, by_path),
    ]


def _started(variables: Mapping[str, str], python_env: str, python_exec: str = "python") -> float:
    began = time.perf_counter()
    try:
        daemon = jvm.PythonWorkerFactory(python_env, variables, python_exec)
    except jvm.PythonWorkerException as error:
        raise BenchError(str(error)) from error
    took_s = time.perf_counter() - began
    daemon.close()
    return took_s
