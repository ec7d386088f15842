"""What a build tells while it goes on: events, the time that each phase took, and warnings, which are kept, too."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from envmgr.events import Event, Phase, Reporter


class Recorder:
    """A reporter that takes the time of each phase and keeps the warnings."""

    def __init__(self, report: Reporter) -> None:
        self._report = report
        self._began: dict[Phase, float] = {}
        self._took: dict[Phase, float] = {}
        self.warnings: list[str] = []

    def __call__(self, event: Event) -> None:
        if event.kind == "begin":
            self._began[event.phase] = time.monotonic()
        elif event.kind == "end" and event.phase in self._began:
            took = time.monotonic() - self._began.pop(event.phase)
            self._took[event.phase] = self._took.get(event.phase, 0.0) + took
        self._report(event)

    @contextlib.contextmanager
    def phase(self, name: Phase, message: str = "") -> Iterator[None]:
        self(Event("begin", name, message))
        try:
            yield
        finally:
            self(Event("end", name))

    def phases_s(self) -> tuple[tuple[str, float], ...]:
        return tuple((name, round(took, 6)) for name, took in self._took.items())

    def warn(self, phase: Phase, text: str) -> None:
        self.warnings.append(text)
        self(Event("warning", phase, text))
