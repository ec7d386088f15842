"""What the agent is told of this host's store by its daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fakes.worlds import make_world, spec_of

from envmgr.daemon.declared import Declared


def test_a_record_that_cannot_be_read_now_is_read_later(tmp_path: Path) -> None:
    """A disk or a kernel that fails for a moment does not hide drift and relocks until the daemon starts anew."""
    world = make_world(tmp_path)
    manager, spec = world.manager(), spec_of("numpy")
    lease = manager.ensure(spec).lease
    lease.close()
    nobody: Any = None  # neither is asked for what is published
    hands = Declared(nobody, nobody, manager.context.layout)
    record = manager.context.layout.build(lease.build_id).record
    record.rename(record.with_suffix(".away"))
    record.mkdir()
    assert hands.published()[spec.name].lock_digest is None
    record.rmdir()
    record.with_suffix(".away").rename(record)
    found = hands.published()[spec.name]
    assert (found.build_id, found.lock_digest is None) == (lease.build_id, False)
    record.unlink()  # what was read once is not read again
    assert hands.published()[spec.name] == found
