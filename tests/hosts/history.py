"""What happened on all hosts, written down as it happened, and the proof that it may happen so.

A history is files of JSON lines, one line an `Event`. Each process appends to the file of its host; simulated hosts
have one kernel, so that CLOCK_BOOTTIME orders the events of all of them.

====================== ===============================================================================================
``build``     span     a builder works: ``store``, ``name``, ``build``
``lease``     span     a build is certainly leased (begun after the lease was got, ended before it is given back):
                       ``store``, ``build``
``delete``    span     a build is certainly being moved away, under its exclusive lease: ``store``, ``build``
``publish``   span     a name is being published: ``store``, ``name``, ``build``, ``is_shared``, ``may_differ``
                       (its host may solve alone), ``token`` of the claim (``None``: it went on without one). The end
                       says what was published, or nothing if it was not: ``lock_digest``, ``machine_class``,
                       ``problems`` (words; what makes the prefix not whole)
``claimed``   moment   a claim was got: ``key`` (``build/<store>/<name>``, ``solve/<name>/<class>``), ``token``
``lockfile``  moment   what stands in ZooKeeper, however often it was looked at: ``name``, ``machine_class``,
                       ``generation``, ``digest``, ``token``, and ``zxid`` and ``created_at`` of the manifest's creation
``solve``     moment   a backend solved: ``name``
``doomed``    moment   everything of ``run`` is about to be killed: what it had begun lasted at least until now
====================== ===============================================================================================

A span that never ended lasts for ever, unless its run was doomed. All spans are what certainly was, so that two that
exclude each other and overlap are proof that something is wrong. ZooKeeper tells times in milliseconds, so what comes
closer than `_EXACT_S` is not told apart.

Not seen: what happens in a process that writes no history (the tests look at the hosts' processes for that), and what
happens between two moments that are not written down.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Facts = dict[str, Any]
_EXACT_S = 0.002


@dataclass(frozen=True, slots=True)
class Event:
    """One line. `run` is the process that wrote it, `span` counts what it began; 0 for a moment."""

    at: float
    host: str
    run: str
    what: str
    phase: Literal["begin", "end", "moment"] = "moment"
    span: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Span:
    """What lasted; `end` is infinite while it goes on. `facts` are those of its begin and its end."""

    what: str
    host: str
    begin: float
    end: float
    has_ended: bool
    facts: Mapping[str, Any]

    def __str__(self) -> str:
        words = ", ".join(f"{key} {value}" for key, value in self.facts.items())
        return f"{self.what} on {self.host} from {self.begin:.4f} to {self.end:.4f} ({words})"


class Writer:
    """Appends to a history; for one process, from any thread."""

    def __init__(self, path: Path, host: str, run: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._host = host
        self._run = run
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def moment(self, what: str, **facts: object) -> None:
        self._write(what, "moment", 0, facts)

    @contextmanager
    def span(self, what: str, **facts: object) -> Iterator[Facts]:
        """Write begin and end of a block, which may put more facts into what it is given."""
        more: Facts = {}
        end = self.begin(what, **facts)
        try:
            yield more
        finally:
            end(more)

    def begin(self, what: str, **facts: object) -> Callable[[Facts], None]:
        """Write the begin of something; call what is returned at its end, with more facts."""
        with self._lock:
            number = next(self._numbers)
        self._write(what, "begin", number, facts)
        return lambda more: self._write(what, "end", number, more)

    def _write(self, what: str, phase: str, span: int, facts: Mapping[str, object]) -> None:
        at = time.clock_gettime(time.CLOCK_BOOTTIME)
        line = {"at": at, "host": self._host, "run": self._run, "what": what, "phase": phase, "span": span}
        os.write(self._fd, json.dumps({**line, "facts": facts}).encode() + b"\n")


def read(paths: Iterable[Path]) -> list[Event]:
    """Return the events of all files, in order."""
    lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    return sorted((Event(**json.loads(line)) for line in lines), key=lambda event: event.at)


# ------------------------------------------------------------------------------------------------------------ the proof


def violations(events: Sequence[Event]) -> list[str]:
    """Return everything that must not have happened, each told with what proves it."""
    known = _spans(events)
    builds, publishes = known["build"], known["publish"]
    moments: dict[str, list[Event]] = defaultdict(list)
    for event in events:
        if event.phase == "moment":
            moments[event.what].append(event)
    return [
        *_one_builder(builds),
        *_whole(publishes),
        *_claimed_publications(publishes, moments["claimed"]),
        *_claimed_lockfiles(moments["lockfile"], moments["claimed"]),
        *_one_lockfile(moments["lockfile"]),
        *_installed(publishes, moments["lockfile"]),
        *_leases(known["lease"], known["delete"]),
    ]


def _spans(events: Sequence[Event]) -> dict[str, list[Span]]:
    """Put begins and ends together."""
    doomed: dict[str, float] = {}
    begun: dict[tuple[str, int], Event] = {}
    ended: dict[tuple[str, int], Event] = {}
    for event in events:
        if event.what == "doomed":
            doomed.setdefault(event.facts["run"], event.at)
        elif event.phase == "begin":
            begun[event.run, event.span] = event
        elif event.phase == "end":
            ended[event.run, event.span] = event
    found: dict[str, list[Span]] = defaultdict(list)
    for key, first in begun.items():
        last = ended.get(key)
        # Doomed later than begun: else its clock says that it lived on, and so it did.
        end = last.at if last is not None else max(doomed.get(first.run, math.inf), first.at)
        facts = {**first.facts, **(last.facts if last is not None else {})}
        found[first.what].append(Span(first.what, first.host, first.at, end, last is not None, facts))
    return found


def overlapping(spans: Iterable[Span]) -> list[tuple[Span, Span]]:
    """Return each span that begins before an earlier one has ended, with that one; empty when none overlap."""
    found: list[tuple[Span, Span]] = []
    longest: Span | None = None
    for span in sorted(spans, key=lambda span: (span.begin, span.end)):
        if longest is not None and span.begin < longest.end:
            found.append((longest, span))
        if longest is None or span.end > longest.end:
            longest = span
    return found


def _by(spans: Iterable[Span], *keys: str) -> dict[tuple[str, ...], list[Span]]:
    groups: dict[tuple[str, ...], list[Span]] = defaultdict(list)
    for span in spans:
        groups[tuple(span.facts[key] for key in keys)].append(span)
    return groups


def _one_builder(builds: Sequence[Span]) -> Iterator[str]:
    """Two builders of one name never work on one store at a time."""
    for group in _by(builds, "store", "name").values():
        for one, other in overlapping(group):
            yield f"two builders at a time: {one}, and {other}"


def _whole(publishes: Sequence[Span]) -> Iterator[str]:
    """What is published is whole."""
    for publish in publishes:
        if publish.facts.get("problems"):
            yield f"not whole: {publish}"


def _claimed_publications(publishes: Sequence[Span], claimed: Sequence[Event]) -> Iterator[str]:
    """An environment on a shared store is published only by who holds the claim."""
    for publish in publishes:
        if not publish.facts["is_shared"]:
            continue
        key, token = f"build/{publish.facts['store']}/{publish.facts['name']}", publish.facts["token"]
        if token is None:
            yield f"published without a claim: {publish}"
            continue
        for event in claimed:
            if event.facts["key"] == key and event.facts["token"] > token and event.at < publish.begin:
                yield f"published after the claim went to {event.host} (token {event.facts['token']}): {publish}"


def _claimed_lockfiles(lockfiles: Sequence[Event], claimed: Sequence[Event]) -> Iterator[str]:
    """A lockfile is published only by who holds the claim on its solve: before anybody else got it."""
    holders: dict[str, list[Event]] = defaultdict(list)
    for event in claimed:
        holders[event.facts["key"]].append(event)
    for zxid, event in {event.facts["zxid"]: event for event in lockfiles}.items():
        known = holders[f"solve/{event.facts['name']}/{event.facts['machine_class']}"]
        token, created_at = event.facts["token"], event.facts["created_at"]
        if token not in {other.facts["token"] for other in known}:
            yield f"a lockfile was published under a claim that nobody got (token {token}): {event.facts}"
        for other in known:
            if other.facts["token"] > token and other.at + _EXACT_S < created_at:
                yield f"a lockfile was published (zxid {zxid}) after its claim went to {other.host}: {event.facts}"


def _one_lockfile(lockfiles: Sequence[Event]) -> Iterator[str]:
    """A generation is published once, and never changes."""
    zxids: dict[tuple[object, ...], set[int]] = defaultdict(set)
    digests: dict[tuple[object, ...], set[str]] = defaultdict(set)
    for event in lockfiles:
        zxids[_generation(event)].add(event.facts["zxid"])
        digests[_generation(event)].add(event.facts["digest"])
    for key, found in zxids.items():
        if len(found) > 1:
            yield f"a lockfile was published {len(found)} times: {key}, at {sorted(found)}"
    for key, several in digests.items():
        if len(several) > 1:
            yield f"one generation, several lockfiles: {key}: {sorted(several)}"


def _generation(event: Event) -> tuple[object, ...]:
    return event.facts["name"], event.facts["machine_class"], event.facts["generation"]


def _installed(publishes: Sequence[Span], lockfiles: Sequence[Event]) -> Iterator[str]:
    """What is installed is a lockfile of the cluster; where it has none of a name, or a host may solve alone, any."""
    digests: dict[tuple[str, str], set[str]] = defaultdict(set)
    for event in lockfiles:
        digests[event.facts["name"], event.facts["machine_class"]].add(event.facts["digest"])
    for publish in publishes:
        if publish.facts.get("lock_digest") is None or publish.facts["may_differ"]:
            continue
        known = digests[publish.facts["name"], publish.facts["machine_class"]]
        if known and publish.facts["lock_digest"] not in known:
            yield f"another lockfile than the cluster's was installed: {publish}"


def _leases(leases: Sequence[Span], deletes: Sequence[Span]) -> Iterator[str]:
    """Nothing is deleted while it is leased."""
    leased = _by(leases, "store", "build")
    for delete in deletes:
        for lease in leased.get((delete.facts["store"], delete.facts["build"]), ()):
            if lease.begin < delete.end and delete.begin < lease.end:
                yield f"deleted under a lease: {delete}, and {lease}"
