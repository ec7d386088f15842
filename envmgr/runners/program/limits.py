"""What a program may use, and how it ended."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from envmgr.errors import UsageError
from envmgr.names import EnvName

_BACKSTOP_BYTES = 1 << 30

THREADS = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_MAX_THREADS", "RAYON_NUM_THREADS",
    "POLARS_MAX_THREADS", "PYTHON_CPU_COUNT",
)  # fmt: skip
"""The variables by which libraries are told how many threads to start; what the caller has set stays."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a program and all that it starts may use together; ``None`` is no limit. `UsageError` for a senseless value.

    `memory_bytes`: anonymous and shared memory, swapped or not; a mapped file does not count. `cores`: CPUs at a time.
    `wall_s`: seconds from the program's start. `instances`: how many limited so may run on this host in the same
    environment of the same store at one time; for a place among them a call waits up to `wait_s` seconds.
    """

    memory_bytes: int | None = None
    cores: int | None = None
    wall_s: float | None = None
    instances: int | None = None
    wait_s: float = 0.0

    def __post_init__(self) -> None:
        for limit in ("memory_bytes", "cores", "instances"):
            self._check(limit, "a whole number above zero", is_whole=True)
        self._check("wall_s", "seconds, more than zero")
        if self.wait_s:
            self._check("wait_s", "seconds, or zero")

    def _check(self, limit: str, expected: str, *, is_whole: bool = False) -> None:
        value = getattr(self, limit)
        if value is None and limit != "wait_s":
            return
        kind = int if is_whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value < math.inf:
            raise UsageError(f"the limit {limit} is {value!r}", hint=f"expected {expected}")

    @property
    def backstop_bytes(self) -> int | None:
        """What one process may map for itself (RLIMIT_DATA) where memory is looked at only now and then.

        More than the limit, for programs reserve what they never touch; but so that between two looks no one process
        can take the host's memory: a program that asks for more at once gets no memory (Python: `MemoryError`), and
        goes on or ends as it does then.
        """
        return None if self.memory_bytes is None else max(2 * self.memory_bytes, self.memory_bytes + _BACKSTOP_BYTES)

    def environ(self, base: Mapping[str, str]) -> dict[str, str]:
        """Return `base` with what tells libraries how many threads to start."""
        count = None if self.cores is None else str(min(self.cores, len(os.sched_getaffinity(0))))
        return dict(base) if count is None else {**dict.fromkeys(THREADS, count), **base}


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended, and what it used with all that it had started.

    `status` is its exit status, negative for the signal that ended it. `cpu_s` are seconds of CPU of every process that
    was waited for. `peak_memory_bytes` is that of all together where memory was limited (as far as looks at it showed),
    and else that of the largest process, mapped files included. `mechanisms` says what kept each limit: ``cgroup``,
    or without one ``watched`` (memory), ``affinity`` (cores); ``clock`` (wall), ``locks`` (instances).
    """

    name: EnvName
    status: int
    wall_s: float
    cpu_s: float
    peak_memory_bytes: int | None
    mechanisms: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        return {
            "name": self.name,
            "status": self.status,
            "wall_s": self.wall_s,
            "cpu_s": self.cpu_s,
            "peak_memory_bytes": self.peak_memory_bytes,
            "mechanisms": dict(self.mechanisms),
        }
