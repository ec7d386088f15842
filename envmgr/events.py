"""What is told while something happens: one record per event.

A caller gets them through ``on_progress``; the command line draws them, the daemon will stream them. Events are for
eyes: no decision is taken from them, and losing one loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Phase = Literal[
    "wait", "sweep", "solve", "fetch", "unpack", "link", "pip-lock", "pip", "activation", "compile", "check", "sync",
    "publish",
]  # fmt: skip
"""The stages of `ensure`, in their order; ``wait`` is waiting for another process's build."""


@dataclass(frozen=True, slots=True)
class Event:
    """One step of progress.

    ``kind``: ``begin`` and ``end`` of a phase; ``progress`` inside it, `done` of `total` in `unit`; ``log`` is a line
    of the build's log; ``warning`` is for the user's eyes.
    """

    kind: Literal["begin", "progress", "end", "log", "warning"]
    phase: Phase
    message: str = ""
    done: int = 0
    total: int = 0
    unit: Literal["bytes", "packages", "files", ""] = ""

    def __str__(self) -> str:
        amount = f" {self.done}/{self.total} {self.unit}" if self.kind == "progress" else ""
        return f"{self.phase}: {self.message or self.kind}{amount}"

    def to_json(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "phase": self.phase,
            "message": self.message,
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
        }


Reporter = Callable[[Event], None]


def counted(number: int, noun: str) -> str:
    """Return ``1 package``, ``2 packages``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def sized(size_bytes: int) -> str:
    """Return a size as people read it, such as ``1.2 GiB``."""
    value = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def ignore(_event: Event) -> None:
    """Be the reporter of a caller that does not want to know."""
