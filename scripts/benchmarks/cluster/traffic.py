"""What goes between hosts and ZooKeeper: counts, bytes, and the list of one host's operations."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from benchmarks.cluster.jute import Kind, Request

WRITES: frozenset[Kind] = frozenset({"create", "create2", "delete", "setData", "multi"})
"""What every server of the ensemble has to do, not only the one that is asked."""

_NUMBER = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{16,}|\d{10}|(?<=/)\d+(?=/|$)")


@dataclass(slots=True)
class Traffic:
    """Operations by kind, events (watches that fired), and bytes in frames, their lengths included."""

    operations: Counter[Kind] = field(default_factory=Counter)
    events: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0

    @property
    def total(self) -> int:
        """All operations without pings, which are told apart: they depend on time, not on what is done."""
        return sum(self.operations.values()) - self.operations["ping"]

    @property
    def writes(self) -> int:
        return sum(self.operations[kind] for kind in WRITES)

    @property
    def bytes(self) -> int:
        return self.sent_bytes + self.received_bytes

    def copy(self) -> Traffic:
        return Traffic(self.operations.copy(), self.events, self.sent_bytes, self.received_bytes)

    def since(self, before: Traffic) -> Traffic:
        """Return what came after `before`, a copy made earlier."""
        return Traffic(
            self.operations - before.operations,
            self.events - before.events,
            self.sent_bytes - before.sent_bytes,
            self.received_bytes - before.received_bytes,
        )

    def facts(self) -> dict[str, object]:
        return {
            "operations": dict(self.operations.most_common()),
            "events": self.events,
            "sent_bytes": self.sent_bytes,
            "received_bytes": self.received_bytes,
        }


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of one host, with what it took in bytes; `at` is monotonic."""

    request: Request
    error: int
    sent_bytes: int
    received_bytes: int
    at: float


def outline(operations: Iterable[Operation], words: Mapping[str, str]) -> list[str]:
    """Return operations as lines in which two hosts that do the same say the same.

    `words` are what differs from host to host or from run to run (its id, the environment's name), and what stands
    for it; longer ones first. Ids and sequence numbers become ``#``. Pings are left out.
    """
    return [
        line + (f" -> {operation.error}" if operation.error else "")
        for operation in operations
        if operation.request.kind != "ping"
        for line in [_line(operation.request, words)]
    ]


def _line(request: Request, words: Mapping[str, str]) -> str:
    if request.kind == "multi":
        return "multi(" + ", ".join(_line(part, words) for part in request.parts) + ")"
    path = request.path
    for word in sorted(words, key=len, reverse=True):
        path = path.replace(word, words[word])
    # One creates with or without asking for the node's facts, and lists likewise: the same work for the server.
    kind = {"create2": "create", "getChildren2": "getChildren"}.get(request.kind, request.kind)
    how = {1: " ephemeral", 2: " sequence", 3: " ephemeral sequence"}.get(request.flags, "")
    return f"{kind}{how}{' watch' if request.is_watching else ''} {_NUMBER.sub('#', path)}"
