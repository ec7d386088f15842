"""What callers of conda pay when they find the conda home instead."""

from __future__ import annotations

import os
from functools import partial

from benchmarks.measuring import Figure, Rounds, in_turn
from benchmarks.workspace import Workspace

_MS = 1e-3
_MANY = 500
# conda's development head of 2026, run from source on two cores, with 1 and with 500 environments; no conda can be had
# where this runs, so these were measured apart and are only told.
_REAL_S = {"env list --json": "0.61, with 500 environments 0.73", "--help": "0.70", "info --json": "1.49"}


def calls(work: Workspace, *, is_quick: bool) -> list[Figure]:
    """Time the calls that MLflow and Ray make before each use of an environment, and an activation."""
    home = work.run / "condahome"
    work.envmgr(work.store, "condahome", "install", home)
    crowded = work.run / "condahome-crowded"
    store = work.run / "crowded"
    (store / "envs").mkdir(parents=True)
    # Names of one environment: to a listing each is as good as an environment, which costs it the same two readlinks.
    (store / "builds").symlink_to(work.store / "builds")
    (store / "envs" / work.name).symlink_to(os.readlink(work.store / "envs" / work.name))
    for number in range(_MANY - 1):
        (store / "envs" / f"mlflow-{number}").symlink_to(work.name)
    work.envmgr(store, "condahome", "install", crowded)
    conda, environ = home / "bin" / "conda", work.environ()
    alias = "mlflow-bench"
    work.envmgr(work.store, "alias", "set", alias, work.name)
    rounds = Rounds(15 if is_quick else 61, 5, 20)
    listing, many, helping, telling, activating, shell, bare = in_turn(
        rounds,
        [
            partial(work.time, [conda, "env", "list", "--json"], environ),
            partial(work.time, [crowded / "bin" / "conda", "env", "list", "--json"], environ),
            partial(work.time, [conda, "--help"], environ),
            partial(work.time, [conda, "info", "--json"], environ),
            partial(work.time, ["/bin/bash", "-c", f"source {home}/bin/activate {alias}"], environ),
            partial(work.time, ["/bin/bash", "-c", ":"], environ),
            partial(work.time, [work.python, "-I", "-S", "-c", "pass"], environ),
        ],
    )
    base = {"baseline": bare, "baseline_what": "python -I -S -c pass"}
    return [
        Figure("condahome", "conda env list --json", listing, **base, goal=30 * _MS, facts=_real("env list --json")),
        Figure("condahome", f"conda env list --json, {_MANY} environments", many, **base, goal=30 * _MS),
        Figure("condahome", "conda --help", helping, **base, facts=_real("--help")),
        Figure("condahome", "conda info --json", telling, **base, facts=_real("info --json")),
        Figure("condahome", "source bin/activate N", activating, "difference", shell, "bash -c :", goal=50 * _MS),
    ]


def _real(command: str) -> dict[str, object]:
    return {"a conda of 2026, measured elsewhere, takes seconds:": _REAL_S[command]}
