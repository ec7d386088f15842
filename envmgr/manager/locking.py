"""lock: find the exact packages of a spec without making an environment.

The lockfile that is found is in force from then on: what `create` would install later is what was printed now.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from envmgr import policy
from envmgr.events import Reporter
from envmgr.manager import ensure, requests
from envmgr.manager.context import Context
from envmgr.manager.waiting import TimeLimit, locked
from envmgr.store import records, sweep

if TYPE_CHECKING:
    from envmgr.model import Spec


def lock(context: Context, spec: Spec, *, limit: TimeLimit, report: Reporter) -> str:
    """Return the text of the lockfile in force for `spec`, solved now if there is none."""
    policy.check(spec, context.settings)
    with locked(context, spec.name, limit, report):
        in_force = ensure.lockfile_in_force(context, spec)
        if in_force is not None:
            return in_force
        ensure.check_space(context)
        found: list[str] = []
        # A pip section is solved against a linked interpreter, so there is a scratch build, which nobody ever sees.
        lease = sweep.begin_build(context.layout, spec.name, spec.digest)
        try:
            request = requests.build_request(context, spec, lease, None, requests.Changes(action="lock"))
            context.backend.build(
                request, lease_fd=lease.fileno(), deadline=limit, report=report, on_locked=found.append
            )
        finally:
            lease.close()
            with contextlib.suppress(OSError):  # a full file system: the next sweep takes it
                sweep.discard(context.layout, lease.build_id)
        records.write_spec(context.layout, spec)
        records.write_lockfile(context.layout, spec.name, context.settings.machine_class, found[-1])
        return found[-1]
