"""Which lockfile a build installs: the cluster's, this host's own, or one that is solved now, once for every host.

* The cluster's generation in force, wherever ZooKeeper answers; it is kept in this host's store, too, so that builds go
  on without ZooKeeper.
* Else, what this host's store knows. If ZooKeeper answers and the cluster has none, it becomes the cluster's.
* Else it is solved, under the claim on the solve. The claim is given back as soon as the lockfile is published, before
  packages of the pip section are installed. Where another host's came first all the same (our claim was lost
  meanwhile), the half-built is thrown away and that one is built: once, since nothing is solved any more.

What is solved while ZooKeeper is away (setting ``solve_without_coordinator``) is this host's own. It becomes the
cluster's at the next build or `align`, or it differs from the cluster's: that is drift, which the agent
shows (`Coordinator.lock_in_force`).

A solver that makes no progress for ``solve_stall_s`` loses its claim, and its build ends. A failure that any host would
meet is published, before the lockfile is complete; what fails later is this host's own.

All this under the name's build lock. A host in no cluster pays one look at an attribute.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar, final

from envmgr import lockfile
from envmgr.errors import (
    ClaimLost,
    CoordinatorUnavailable,
    EnvmgrError,
    InvalidSpec,
    LockfileMismatch,
    LockfileTooLarge,
    Unsatisfiable,
)
from envmgr.events import Event, Reporter
from envmgr.manager import failures
from envmgr.store import records

if TYPE_CHECKING:
    from envmgr.manager.context import Context
    from envmgr.manager.requests import OnLocked
    from envmgr.model import PublishedLockfile, Spec
    from envmgr.names import EnvName
    from envmgr.ports import Deadline, Solving

T = TypeVar("T")
Do = Callable[["str | None", "Deadline", "Reporter", "OnLocked"], T]
"""What is done with a lockfile's text, or ``None`` to solve it."""

_EVERYBODYS = (Unsatisfiable, InvalidSpec, LockfileTooLarge)
"""Failures of a solve that every other host would meet, too."""
_TRIES = 3


@dataclass(frozen=True, slots=True)
class _Known:
    """The lockfile to install, if it is known; `generation` is to be solved, ``None``: nothing to agree upon."""

    text: str | None
    generation: int | None


class _Superseded(Exception):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text


def settle(
    context: Context,
    spec: Spec,
    do: Do[T],
    *,
    limit: Deadline,
    report: Reporter,
    is_retry: bool = False,
    needs_answer: bool = False,
) -> T:
    """Call `do` with the lockfile that is to be installed, and return what it returns; twice if it was superseded.

    Called with ``None``, it solves, and tells the complete text before it goes on. With `is_retry`, a failure that
    another host published is forgotten, unless the environment is the cluster's. With `needs_answer`, what only this
    host knows does not do: `CoordinatorUnavailable`.
    """
    name = spec.name
    known = _known(context, spec, limit, report, needs_answer=needs_answer)

    def put(text: str) -> None:
        _put(context, name, text)

    if known.generation is None:
        return do(known.text, limit, report, put)
    with Round(context, spec, known.generation, limit, report, is_retry=is_retry) as agreed:
        if agreed.found is not None:
            text = take(context, agreed.found)
            agreed.close()
            return do(text, limit, report, put)
        is_locked = False

        def publish(text: str) -> None:
            nonlocal is_locked
            published = agreed.publish(text)
            is_locked = True
            agreed.close()
            if published is not None and not _is_same(context, published, text):
                raise _Superseded(take(context, published))
            put(text)

        try:
            return do(None, agreed, agreed.report, publish)
        except _Superseded as other:
            text = other.text
        except EnvmgrError as error:
            if not is_locked:
                agreed.fail(error)
            raise
    report(Event("warning", "solve", "another host published its lockfile first; that one is built"))
    return do(text, limit, report, put)


@final
class Round:
    """The right to make one generation of a lockfile, for the length of a block; also the deadline of who makes it.

    `found`: another host has made it. Alone by setting (`CoordinatorUnavailable` otherwise), `publish` does nothing.
    """

    def __init__(
        self,
        context: Context,
        spec: Spec,
        generation: int,
        limit: Deadline,
        report: Reporter,
        *,
        is_retry: bool = False,
    ) -> None:
        self._context = context
        self._spec = spec
        self._generation = generation
        self._limit = limit
        self._report = report
        self._is_retry = is_retry and not context.coordinator.is_declared(spec.name)
        self._held = contextlib.ExitStack()
        self._solving: Solving | None = None

    def __enter__(self) -> Round:
        try:
            self._begin()
        except EnvmgrError as error:  # for those who wait for the build lock meanwhile
            failures.remember(self._context, self._spec.name, error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def found(self) -> PublishedLockfile | None:
        return None if self._solving is None else self._solving.found

    def close(self) -> None:
        """Give the claim back."""
        self._solving = None
        self._held.close()

    def check(self) -> None:
        """Raise what the caller's limit raises, and `ClaimLost` after a stall."""
        self._limit.check()
        if self._solving is not None:
            self._solving.check()

    def remaining_s(self) -> float | None:
        return self._limit.remaining_s()

    def report(self, event: Event) -> None:
        """Pass an event on; each is a sign that the solver gets on."""
        if self._solving is not None:
            self._solving.progress()
        self._report(event)

    def publish(self, text: str) -> PublishedLockfile | None:
        """Publish a complete lockfile and return what is in force, ``None`` if nobody was asked.

        A claim that was lost meanwhile is taken again, a few times; a failure that was published meanwhile is refuted.
        """
        self._is_retry = True
        for _ in range(_TRIES):
            if self._solving is None:
                return None
            if self._solving.found is not None:
                return self._solving.found
            try:
                return self._publish_held(self._solving, text)
            except CoordinatorUnavailable:
                self.close()
                self._begin()
        raise ClaimLost(
            f"the claim on the solve of {self._spec.name} was lost {_TRIES} times", hint="the next try may succeed"
        )

    def _publish_held(self, solving: Solving, text: str) -> PublishedLockfile:
        """Publish under the claim as it is: a lost connection is no lost claim, for which others would solve again."""
        for _ in range(_TRIES - 1):
            with contextlib.suppress(CoordinatorUnavailable):
                return solving.publish(text)
            self._limit.check()
        return solving.publish(text)

    def fail(self, error: EnvmgrError) -> None:
        """Tell the cluster of a failure that every host would meet."""
        if self._solving is not None and isinstance(error, _EVERYBODYS):
            with contextlib.suppress(CoordinatorUnavailable):
                self._solving.fail(error)

    def _begin(self) -> None:
        context, spec = self._context, self._spec
        try:
            self._solving = self._held.enter_context(
                context.coordinator.solving(
                    spec.name, context.settings.machine_class, self._generation,
                    deadline=self._limit, report=self._report, is_retry=self._is_retry,
                )
            )  # fmt: skip
        except CoordinatorUnavailable as error:
            if not context.settings.solve_without_coordinator:
                own = "with the setting solve_without_coordinator a host solves by itself"
                error.hint = own if error.hint is None else f"{error.hint}; {own}"
                raise
            self._report(Event("warning", "solve", f"this host solves by itself: {error.message}"))


@dataclass(frozen=True, slots=True)
class Proposal:
    """What to build a given lockfile with, and what puts it in force once it was built."""

    limit: Deadline
    report: Reporter
    put_in_force: Callable[[str], None]


@contextlib.contextmanager
def proposing(
    context: Context, spec: Spec, check: Callable[[str | None], None], limit: Deadline, report: Reporter
) -> Iterator[Proposal]:
    """Prepare for a lockfile that a caller brings.

    `check` gets the text of the lockfile in force, or ``None``, and raises if the given one may not be built. Putting
    it in force raises `LockfileMismatch` when another host's came first.
    """
    known = _known(context, spec, limit, report)
    check(known.text)
    if known.generation is None:
        yield Proposal(limit, report, lambda text: _put(context, spec.name, text))
        return
    with Round(context, spec, known.generation, limit, report, is_retry=True) as agreed:
        if agreed.found is not None:
            check(agreed.found.text)

        def put(text: str) -> None:
            published = agreed.publish(text)
            if published is not None and not _is_same(context, published, text):
                raise LockfileMismatch(
                    f"another host published lockfile {published.digest[:16]} for {spec.name} first",
                    hint="envmgr create without a lockfile builds that one",
                )
            _put(context, spec.name, text)

        yield Proposal(agreed, agreed.report, put)


def next_generation(context: Context, name: EnvName) -> int:
    """Return the number of the generation that a relock makes; 1 where nobody knows."""
    least = context.coordinator.least_generation(name)
    with contextlib.suppress(CoordinatorUnavailable):
        published = context.coordinator.lockfile(name, context.settings.machine_class)
        if published is not None:
            return max(least, published.generation + 1)
    return least


def take(context: Context, published: PublishedLockfile) -> str:
    """Keep the cluster's lockfile in this host's store, in force for the builds to come, and return its text."""
    _put(context, published.name, published.text)
    return published.text


def _put(context: Context, name: EnvName, text: str) -> None:
    machine_class = context.settings.machine_class
    if records.read_lockfile(context.layout, name, machine_class) != text:
        records.write_lockfile(context.layout, name, machine_class, text)


def _is_same(context: Context, published: PublishedLockfile, text: str) -> bool:
    return published.text == text or published.digest == lockfile.parse(text, context.settings.subdir).digest


def _known(context: Context, spec: Spec, limit: Deadline, report: Reporter, *, needs_answer: bool = False) -> _Known:
    if spec.is_lockfile:
        return _Known(spec.source_text, None)
    coordinator, machine_class = context.coordinator, context.settings.machine_class
    own = records.read_lockfile(context.layout, spec.name, machine_class)
    if not coordinator.is_clustered:
        return _Known(own, None)
    least = coordinator.least_generation(spec.name)
    try:
        published = coordinator.lockfile(spec.name, machine_class)
        if published is not None and published.generation >= least:
            return _Known(take(context, published), None)
        if published is None and least == 1 and own is not None:
            return _Known(_shared(context, spec, own, limit, report), None)
    except CoordinatorUnavailable:  # what is known does for a build; the next one, or `align`, asks again
        if needs_answer:
            raise
        return _Known(own, None if own is not None else least)
    return _Known(None, least)


def _shared(context: Context, spec: Spec, own: str, limit: Deadline, report: Reporter) -> str:
    """Let a lockfile that only this host knows be the cluster's, and return what is in force then."""
    coordinator, machine_class = context.coordinator, context.settings.machine_class
    with coordinator.solving(spec.name, machine_class, 1, deadline=limit, report=report, is_retry=True) as solving:
        return take(context, solving.found or solving.publish(own))
