"""The administrator's side of a bench: the real `envmgr.cluster.administration`, on a session of its own."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from envmgr import spec
from envmgr.cluster.administration import Administration
from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.session import Session
from envmgr.manager.context import SystemClock
from envmgr.model import Spec
from envmgr.wire.cluster import Declaration
from envmgr.wire.tree import Selector


@contextlib.contextmanager
def administrator(servers: Sequence[str], root: str) -> Iterator[Administration]:
    """Yield the verbs for the cluster below `root`; blocks while it connects."""
    session = Session(Endpoint(servers=tuple(servers), root=root))
    session.start()
    try:
        yield Administration(session, by="bench", clock=SystemClock())
    finally:
        session.close()


def spec_of(word: str) -> Spec:
    """Return a small spec, another one for each word."""
    return spec.parse(f"name: {word}\ndependencies:\n  - {word}\n", source="bench")


def declaration(of: Spec, hosts: Sequence[str] = (), labels: Mapping[str, str] | None = None) -> Declaration:
    """Return the declaration of a spec, for all hosts or these."""
    return Declaration(spec=dataclasses.asdict(of), selector=Selector(hosts=tuple(hosts), labels=labels or {}))
