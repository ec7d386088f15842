"""relock, align and repair: the only use cases that replace a publication.

All make a new build beside the old one and rename the name over to it, if it still leads where they read it. Processes
that run keep the build that they started in; it goes when the last of them is gone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from envmgr import lockfile, policy
from envmgr.errors import Corrupt, DeclaredInCluster, EnvironmentNotFound, EnvmgrError, InvalidSpec, UsageError
from envmgr.events import Reporter
from envmgr.manager import agreement, claims, ensure, requests
from envmgr.manager.agreement import Round
from envmgr.manager.claims import claimed
from envmgr.manager.context import Context
from envmgr.manager.waiting import TimeLimit
from envmgr.store import publication, records

if TYPE_CHECKING:
    from envmgr.model import PublishedLockfile, Record, Spec
    from envmgr.names import BuildId, EnvName
    from envmgr.ports import Claim, Deadline


@dataclass(frozen=True, slots=True)
class Replaced:
    """The record of what is published now; `is_new` is false when relock found the very same packages."""

    record: Record
    is_new: bool
    old_build_id: BuildId


def _stored_spec(context: Context, name: EnvName) -> Spec:
    spec = records.read_spec(context.layout, name)
    if spec is None:
        raise EnvironmentNotFound(f"the store knows no spec for {name}", hint="envmgr create FILE makes it")
    return spec


def relock(
    context: Context, name: EnvName, *, exclude_newer: str | None, limit: TimeLimit, report: Reporter
) -> Replaced:
    """Solve again, build the result and republish; the new lockfile is in force from then on.

    In a cluster it is the next generation, published once it was built, or that of a host that was faster. Of a
    declared environment, `DeclaredInCluster`.
    """
    if context.coordinator.is_declared(name):
        raise DeclaredInCluster(
            f"{name} is declared for this host by the cluster, where all hosts install the same packages",
            hint="envmgr cluster relock makes a new lockfile for all of them",
        )
    with claimed(context, name, limit, report) as claim:
        old = _published(context, name)
        spec = _stored_spec(context, name)
        policy.check(spec, context.settings)
        if spec.is_lockfile:
            raise UsageError(
                f"{name} was made from a lockfile, which leaves nothing to solve",
                hint="create the environment of another lockfile, or of a spec",
            )
        replacing = _Replacing(context, spec, old, claim)
        if not context.coordinator.is_clustered:
            return replacing.solve(limit, report, exclude_newer, lambda _text: None)
        generation = agreement.next_generation(context, name)
        with Round(context, spec, generation, limit, report, is_retry=True) as agreed:
            if agreed.found is None:

                def publish(text: str) -> PublishedLockfile | None:
                    published = agreed.publish(text)
                    agreed.close()
                    return published

                return replacing.solve(agreed, agreed.report, exclude_newer, publish)
            text = agreement.take(context, agreed.found)
        return replacing.build(text, limit, report)


def align(context: Context, name: EnvName, *, limit: TimeLimit, report: Reporter) -> Replaced:
    """Bring a publication to the cluster's lockfile in force; `CoordinatorUnavailable` when nobody knows it."""
    with claimed(context, name, limit, report) as claim:
        old = _published(context, name)
        spec = _stored_spec(context, name)
        record = records.read_record(context.layout, name, old)
        machine_class = context.settings.machine_class
        text = _published_lockfile(context, name, old)
        if text is not None and records.read_lockfile(context.layout, name, machine_class) is None:
            # Lost, or of another class before: nothing is to be solved that is there already.
            records.write_lockfile(context.layout, name, machine_class, text)
        replacing = _Replacing(context, spec, old, claim)

        def do(text: str | None, limit: Deadline, report: Reporter, on_locked: requests.OnLocked) -> Replaced:
            if text is not None and lockfile.parse(text, context.settings.subdir).digest == record.lock_digest:
                return Replaced(record, is_new=False, old_build_id=old)
            return replacing.build(text, limit, report, on_locked=on_locked)

        # One that does not answer any more has brought nothing in line: the caller has to try again.
        return agreement.settle(context, spec, do, limit=limit, report=report, needs_answer=True)


def repair(context: Context, name: EnvName, *, limit: TimeLimit, report: Reporter) -> Replaced:
    """Build the published packages again, every cached one validated byte by byte, and republish."""
    with claimed(context, name, limit, report) as claim:
        old = _published(context, name)
        spec = _stored_spec(context, name)
        text = _published_lockfile(context, name, old) or ensure.lockfile_in_force(context, spec)
        return _Replacing(context, spec, old, claim).build(
            text, limit, report, changes=requests.Changes(validate_packages=True),
            on_locked=lambda text: records.write_lockfile(context.layout, name, context.settings.machine_class, text),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Replacing:
    """A new build for a name that is published, under its build lock and claim."""

    context: Context
    spec: Spec
    old: BuildId
    claim: Claim | None

    def build(
        self,
        text: str | None,
        limit: Deadline,
        report: Reporter,
        *,
        on_locked: requests.OnLocked = lambda _text: None,
        changes: requests.Changes = requests.ORDINARY,
    ) -> Replaced:
        """Build from a lockfile, or solve it, and republish."""
        context, name = self.context, self.spec.name
        lease = ensure.build(
            context, self.spec, text, limit=limit, report=report, changes=changes, is_shared=False, on_locked=on_locked
        )
        with _swept(context, self.spec), contextlib.closing(lease):
            self._replace(lease.build_id)
            record = records.read_record(context.layout, name, lease.build_id)
        return Replaced(record, is_new=True, old_build_id=self.old)

    def solve(
        self,
        limit: Deadline,
        report: Reporter,
        exclude_newer: str | None,
        publish: Callable[[str], PublishedLockfile | None],
    ) -> Replaced:
        """Solve anew, build what comes of it, and republish if it differs from what is there."""
        context, name = self.context, self.spec.name
        found: list[str] = []
        changes = requests.Changes(exclude_newer=exclude_newer)
        lease = ensure.build(
            context, self.spec, None, limit=limit, report=report, changes=changes, is_shared=False,
            on_locked=found.append,
        )  # fmt: skip
        with _swept(context, self.spec), contextlib.closing(lease):
            new = records.read_record(context.layout, name, lease.build_id)
            before = records.read_record(context.layout, name, self.old)
            if new.lock_digest == before.lock_digest:
                return Replaced(before, is_new=False, old_build_id=self.old)
            # The lockfile goes first: a crash between the two leaves the old environment in place and the new
            # lockfile in force, and the next relock or create goes on from there.
            published = publish(found[-1])
            records.write_lockfile(
                context.layout, name, context.settings.machine_class, found[-1] if published is None else published.text
            )
            if published is None or published.digest == new.lock_digest:
                self._replace(lease.build_id)
                return Replaced(new, is_new=True, old_build_id=self.old)
        return self.build(published.text, limit, report)  # another host's came first

    def _replace(self, new: BuildId) -> None:
        claims.check(self.context, self.claim)
        if not publication.republish(self.context.layout, self.spec.name, self.old, new):
            raise EnvmgrError(f"{self.spec.name} was changed by somebody else while it was rebuilt", hint="try again")
        records.clear_failure(self.context.layout, self.spec.name)


def _published_lockfile(context: Context, name: EnvName, build_id: BuildId) -> str | None:
    """Return the lockfile that a published build was made from, or ``None`` when it or its record is damaged too.

    It is not always the one in force: a relock that was killed before it republished has put a newer one in force, and
    a repair must not change packages.
    """
    try:
        record = records.read_record(context.layout, name, build_id)
        text = context.layout.build(build_id).lockfile.read_text(encoding="utf-8")
        digest = lockfile.parse(text, context.settings.subdir).digest
    except (Corrupt, InvalidSpec, OSError, UnicodeDecodeError):
        return None
    return text if digest == record.lock_digest else None


@contextlib.contextmanager
def _swept(context: Context, spec: Spec) -> Iterator[None]:
    """At the end of the block, however it ends, discard the builds of `spec` that no name leads to and nobody uses."""
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # a full file system: the next sweep takes them
            claims.sweep(context, spec.digest)


def _published(context: Context, name: EnvName) -> BuildId:
    build_id = publication.current(context.layout, name)
    if build_id is None:
        raise EnvironmentNotFound(f"{name} is not in {context.root}", hint="envmgr create FILE makes it")
    return build_id
