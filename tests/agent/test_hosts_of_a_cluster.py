"""Two real daemons over a fake backend, hosts of one cluster, with a real ZooKeeper."""

from __future__ import annotations

from pathlib import Path

from agent.members import administrator, members
from coordination.polling import until

from envmgr import ready
from envmgr.coordination.zookeeper.endpoint import Endpoint


def test_what_is_declared_comes_to_every_host_and_goes(tmp_path: Path, endpoint: Endpoint) -> None:
    """One solve, a build on each host, the same lockfile; and when it is removed it goes from both."""
    with administrator(endpoint) as admin, members(tmp_path, endpoint, "a", "b") as (a, b):
        name = admin.create("numpy", alias="tools")
        found = admin.until_state(name, "ready", "a", "b")
        assert len({row.lock_digest for row in found.rows}) == 1
        assert not any(row.is_drift for row in found.rows)
        for daemon in (a, b):
            assert ready.resolve(str(daemon.root), name) is not None
            assert until(lambda daemon=daemon: ready.resolve_alias(str(daemon.root), "tools")) == name
            with daemon.client() as client:
                membership = client.ask("GET", "/v1/status").data["cluster"]
            assert (membership["is_connected"], membership["declared"], membership["problem"]) == (True, 1, None)
        admin.verbs.remove(name)
        until(lambda: not any(ready.resolve(str(daemon.root), name) for daemon in (a, b)))
        until(lambda: not admin.verbs.status().environments)
        assert a.stop() == 0
        assert b.stop() == 0
        assert admin.session.children("/v1/hosts") == ()
