"""The box that the other tests stand on."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from systemd_box import LIMIT_S, missing

_HOLDER = """\
import sys
from pathlib import Path
from systemd_box import Box
box = Box([])
print(box._janitor.pid, box.leader, box.directory, *box.cgroups, flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.skipif(missing() is not None, reason=f"needs {missing()}")
def test_nothing_stays_after_sigkill() -> None:
    """When the process that has a box is killed, container, cgroups and files go."""
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).parent,
    )  # fmt: skip
    assert holder.stdout is not None
    janitor, leader, *paths = holder.stdout.readline().split()
    descriptors = [os.pidfd_open(int(pid)) for pid in (janitor, leader)]
    assert all(Path(path).is_dir() for path in paths)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    for descriptor in descriptors:
        assert select.select([descriptor], [], [], LIMIT_S)[0]
        os.close(descriptor)
    assert [path for path in paths if Path(path).exists()] == []
    assert "envmgr-box" not in Path("/proc/self/mountinfo").read_text()
