"""lock: find the exact packages of a spec without making an environment.

The lockfile that is found is in force from then on: what `create` would install later is what was printed now.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from envmgr import policy
from envmgr.events import Reporter
from envmgr.manager import agreement, ensure, requests
from envmgr.manager.claims import claimed
from envmgr.manager.context import Context
from envmgr.manager.waiting import TimeLimit, locked
from envmgr.store import records, sweep

if TYPE_CHECKING:
    from envmgr.model import Spec
    from envmgr.ports import Deadline


def lock(context: Context, spec: Spec, *, limit: TimeLimit, report: Reporter) -> str:
    """Return the text of the lockfile in force for `spec`, solved now if there is none."""
    policy.check(spec, context.settings)

    def do(text: str | None, limit: Deadline, report: Reporter, on_locked: requests.OnLocked) -> str:
        return text if text is not None else _solved(context, spec, limit, report, on_locked)

    # The claim is for the scratch build: a store of this host alone does without.
    holding = claimed if context.coordinator.is_shared else locked
    with holding(context, spec.name, limit, report):
        return agreement.settle(context, spec, do, limit=limit, report=report)


def _solved(context: Context, spec: Spec, limit: Deadline, report: Reporter, on_locked: requests.OnLocked) -> str:
    ensure.check_space(context)
    found: list[str] = []

    def locked_as(text: str) -> None:
        records.write_spec(context.layout, spec)
        on_locked(text)
        found.append(text)

    # A pip section is solved against a linked interpreter, so there is a scratch build, which nobody ever sees.
    lease = sweep.begin_build(context.layout, spec.name, spec.digest)
    try:
        request = requests.build_request(context, spec, lease, None, requests.Changes(action="lock"))
        context.backend.build(request, lease_fd=lease.fileno(), deadline=limit, report=report, on_locked=locked_as)
    finally:
        lease.close()
        with contextlib.suppress(OSError):  # a full file system: the next sweep takes it
            sweep.discard(context.layout, lease.build_id)
    return found[-1]
