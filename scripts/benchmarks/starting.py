"""What it costs to ask for an environment that is ready: calls, imports, starts of processes."""

from __future__ import annotations

import json
import os
import subprocess
from functools import partial
from pathlib import Path

from benchmarks.measuring import BenchError, Figure, Rounds, Spread, in_turn
from benchmarks.workspace import QUICKSTART, Workspace

_MS = 1e-3


def ready(work: Workspace, *, is_quick: bool) -> list[Figure]:
    """Time `ensure` and `close` inside one process."""
    count = 2000 if is_quick else 20_000
    command = work.program("calls", work.store, work.name, QUICKSTART, str(count))
    by_name, by_file = (Spread(tuple(values)) for values in json.loads(work.output(command)))
    return [
        Figure("ready", "ensure(name) and close, in process", by_name, goal=50e-6),
        Figure("ready", "ensure(Path) and close, a file already seen", by_file, goal=50e-6),
    ]


def importing(work: Workspace, *, is_quick: bool) -> list[Figure]:
    """Compare fresh processes that import envmgr with bare ones."""
    environ = work.environ()
    rounds = Rounds(15 if is_quick else 61, 5, 15)
    imported, bare = in_turn(
        rounds,
        [
            partial(work.time, [work.python, "-c", "import envmgr"], environ),
            partial(work.time, [work.python, "-c", "pass"], environ),
        ],
    )
    return [
        Figure(
            "import", "import envmgr, fresh process", imported, "difference", bare, "python -c pass", goal=15 * _MS
        )
    ]  # fmt: skip


def hook(work: Workspace, *, is_quick: bool) -> list[Figure]:
    """Compare the environment's interpreter, started by the stable path, with the same one without the hook."""
    without = _without_hook(work)
    environ = work.environ()
    with_hook = work.store / "envs" / work.name / "bin" / "python"
    rounds = Rounds(15 if is_quick else 61, 5, 15)
    hooked, bare = in_turn(
        rounds,
        [
            partial(work.time, [with_hook, "-c", "pass"], environ),
            partial(work.time, [without, "-c", "pass"], environ),
        ],
    )
    return [
        Figure("hook", "<env>/bin/python -c pass, with the hook", hooked, "difference", bare, "without it", 2 * _MS)
    ]  # fmt: skip


def _without_hook(work: Workspace) -> Path:
    """Lay out a copy of the quickstart environment as a store does, without the hook's files."""
    build = work.run / "without-hook" / "builds" / work.prefix.parent.parent.name
    copy = build / "envs" / work.name
    copy.parent.mkdir(parents=True)
    subprocess.run(["cp", "-al", work.prefix, copy], check=True)
    removed = 0
    for site_packages in copy.glob("lib/python3.*/site-packages"):
        for directory, pattern in (
            (site_packages, "*envmgr_lease*"),
            (site_packages / "__pycache__", "_envmgr_lease*"),
        ):
            directory.chmod(0o755)
            for file in directory.glob(pattern):
                file.unlink()
                removed += 1
    if not removed:
        raise BenchError(f"no hook was found in {work.prefix}")
    envs = work.run / "without-hook" / "envs"
    envs.mkdir()
    (envs / work.name).symlink_to(os.path.relpath(copy, envs))
    return envs / work.name / "bin" / "python"


def launcher(work: Workspace, *, is_quick: bool) -> list[Figure]:
    """Compare ``envmgr-python`` with the interpreter that it becomes."""
    environ = work.environ(work.store, ENVMGR_ENV=work.name)
    python = work.store / "envs" / work.name / "bin" / "python"
    rounds = Rounds(15 if is_quick else 61, 5, 15)
    launched, direct = in_turn(
        rounds,
        [
            partial(work.time, [work.bin / "envmgr-python", "-c", "pass"], environ),
            partial(work.time, [python, "-c", "pass"], environ),
        ],
    )
    return [
        Figure(
            "launcher", "envmgr-python -c pass", launched, "difference", direct, "<env>/bin/python -c pass", 25 * _MS
        )
    ]  # fmt: skip


def commands(work: Workspace, *, is_quick: bool) -> list[Figure]:
    """Time commands as whole processes."""
    environ = work.environ(work.store)
    envmgr = work.bin / "envmgr"
    rounds = Rounds(7 if is_quick else 31, 5, 15)
    naming, listing, creating, bare = in_turn(
        rounds,
        [
            partial(work.time, [envmgr, "name", QUICKSTART], environ),
            partial(work.time, [envmgr, "list"], environ),
            partial(work.time, [envmgr, "create", QUICKSTART], environ),
            partial(work.time, [work.python, "-c", "pass"], environ),
        ],
    )
    return [
        Figure("commands", "envmgr name FILE", naming, baseline=bare, baseline_what="python -c pass", goal=150 * _MS),
        Figure("commands", "envmgr list", listing, baseline=bare, baseline_what="python -c pass", goal=150 * _MS),
        Figure("commands", "envmgr create FILE, ready", creating, baseline=bare, baseline_what="python -c pass"),
    ]
