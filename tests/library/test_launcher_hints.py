"""What `envmgr-python` advises; no environment is needed for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_a_name_that_is_not_there_points_to_a_spec(tmp_path: Path) -> None:
    """Where no environment of that name is, the hint names what makes one here: ENVMGR_SPEC, no path for a name."""
    environ = {**os.environ, "ENVMGR_ENV": "nope", "ENVMGR_ROOT": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", "from envmgr import launcher; launcher.main()"],
        env=environ, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (6, "")
    assert "ENVMGR_SPEC=FILE" in done.stderr
    assert "./nope" not in done.stderr
