"""The cluster under random work and random faults: real daemons and ZooKeeper on simulated hosts (`hosts` in tests).

Needs root, and what `hosts.clusters.missing` names. What was found stays in a directory that is named: each host's
history and what its daemons said.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path

from hosts.clusters import Cluster, missing
from hosts.random_faults import Run, make_cluster

from soaking.place import Violation

HOSTS = 5
_ROUND_S = 15.0


def soak(seed: int, seconds: float) -> tuple[int, Counter[str]]:
    """Run rounds for so many seconds, at least one; return how many, and what was done how often."""
    lacking = missing()
    if lacking is not None:
        raise Violation(f"the cluster cannot run here: it needs {lacking}")
    rounds, until = 0, time.monotonic() + seconds
    with contextlib.ExitStack() as made:
        cluster = make_cluster(lambda count: made.enter_context(Cluster(count)), HOSTS, is_long=True)
        run = Run(cluster, seed, is_long=True)
        try:
            while not rounds or time.monotonic() < until:
                run.round(min(_ROUND_S, max(1.0, until - time.monotonic())))
                rounds += 1
        except (AssertionError, TimeoutError, RuntimeError) as error:
            kept = Path(tempfile.mkdtemp(prefix="envmgr-soak-cluster-"))
            shutil.copytree(cluster.histories, kept / "histories")
            for node in cluster.nodes.values():
                (kept / f"{node.name}.log").write_text(node.words)
            raise Violation(f"in round {rounds + 1}: {error}; see {kept}") from error
    return rounds, run.did
