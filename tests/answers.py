"""What a command of envmgr answered, whoever started it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def record(self) -> dict[str, Any]:
        """The one JSON record on standard output; anything else there fails."""
        assert self.out.endswith("\n")
        assert self.out.count("\n") == 1
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found

    @property
    def error(self) -> dict[str, Any]:
        """The error of a command that was given ``--json`` and had to fail."""
        assert self.code != 0, self.out
        assert "Traceback" not in self.err
        found = self.record["error"]
        assert isinstance(found, dict)
        return found
