"""The fair queue: round robin over callers, first come first served inside one caller's line.

Something that several callers asked for stands in each one's line and leaves all of them at once, so that nobody waits
behind a stranger's long line for what he asked for himself. Not for use by several threads at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class FairQueue(Generic[T]):
    """See the module; the lines' order is the order of their turns."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, deque[T]] = {}
        self._callers: dict[T, list[Hashable]] = {}

    def __len__(self) -> int:
        return len(self._callers)

    def __contains__(self, item: T) -> bool:
        return item in self._callers

    def waiting(self, caller: Hashable) -> int:
        """Return how many stand in one caller's line."""
        return len(self._lines.get(caller, ()))

    def add(self, caller: Hashable, item: T) -> None:
        """Put `item` at the end of a caller's line, unless it stands there."""
        callers = self._callers.setdefault(item, [])
        if caller not in callers:
            callers.append(caller)
            self._lines.setdefault(caller, deque()).append(item)

    def pop(self) -> T | None:
        """Take the one whose turn it is; its caller's next one comes when every other caller had a turn."""
        if not self._lines:
            return None
        caller, line = next(iter(self._lines.items()))
        item = line[0]
        self._lines[caller] = self._lines.pop(caller)
        self.discard(item)
        return item

    def discard(self, item: T) -> None:
        """Take `item` out of every line, if it stands in any."""
        for caller in self._callers.pop(item, ()):
            line = self._lines[caller]
            line.remove(item)
            if not line:
                del self._lines[caller]

    def in_order(self) -> Iterator[T]:
        """Yield everything that waits in the order in which it will be taken if nothing else comes."""
        lines = deque(map(deque, self._lines.values()))
        seen = set()
        while lines:
            line = lines.popleft()
            while line and line[0] in seen:
                line.popleft()
            if line:
                item = line.popleft()
                seen.add(item)
                yield item
                lines.append(line)
