"""An administrator: ``declaring.py SERVERS ROOT WORD TIMEOUT_S`` does as ``envmgr cluster create --wait``.

The spec is that of `benchmarks.cluster.administering.spec_of`. It connects, says ``ready``, waits for a line, and
declares; it prints ``done`` when the rollout is. A process of its own, because a bench that simulates thousands of
hosts has no time to answer for one more. Started by its path.
"""

from __future__ import annotations

import dataclasses
import sys

from envmgr import spec
from envmgr.cli import rollout
from envmgr.cluster.administration import Administration
from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.session import Session
from envmgr.manager.context import SystemClock
from envmgr.wire.cluster import Declaration


def main(servers: str, root: str, word: str, timeout_s: str) -> None:
    """Declare one environment, and wait for it."""
    session = Session(Endpoint(servers=tuple(servers.split(",")), root=root))
    session.start()
    admin = Administration(session, by="bench", clock=SystemClock())
    of = spec.parse(f"name: {word}\ndependencies:\n  - {word}\n", source="bench")
    print("ready", flush=True)
    sys.stdin.readline()
    admin.create(Declaration(spec=dataclasses.asdict(of)))
    with admin.watching(of.name) as watching:
        rollout.wait(watching, rollout.Show(), timeout_s=float(timeout_s))
    print("done", flush=True)
    session.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
