"""What a command of envmgr answered, whoever started it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import Any

LIMIT_S = 90.0


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


def ended(process: subprocess.Popen[str], stdin: str | None = None, limit_s: float = LIMIT_S) -> Answer:
    """Wait for a command's end; one that takes longer than `limit_s` is killed, and its test fails."""
    try:
        out, err = process.communicate(stdin, timeout=limit_s)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return Answer(process.returncode, out, err)
