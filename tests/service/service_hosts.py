"""A host with the service installed in a box, its users, and a channel that keeps builds waiting on request.

Users: ``alice`` and ``bob`` are in the use-group, ``carol`` is in the admin-group, too, and ``mallory`` in neither.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import answers
from answers import Answer
from demo.packages import fabricate, index
from places import CHECKOUT
from systemd_box import LIMIT_S, Box, Lines

SERVICE = "envmgr.service"
USERS = {"alice": "envusers", "bob": "envusers", "carol": "envusers,envadmins", "mallory": ""}
STORE = "/var/lib/envmgr"


def make_channel(directory: Path) -> Path:
    """Make a channel of small packages: ``app`` needs ``lib``; ``slow-1`` to ``slow-5`` are kept back on request."""
    fabricate(directory, "lib", "1.0", files={"bin/lib-says": "#!/bin/sh\necho lib\n"})
    fabricate(directory, "app", "1.0", depends=["lib"])
    for number in range(1, 6):
        fabricate(directory, f"slow-{number}", "1.0")
    index(directory)
    return directory


def new_box() -> Box:
    """Boot a box in which this installation of envmgr can be run by root, and by nobody else."""
    return Box([CHECKOUT, Path(sys.prefix), Path(sys.base_prefix)])


class ServiceHost:
    """The box, seen through ``envmgr`` as its users call it."""

    def __init__(self, box: Box, channel: Path) -> None:
        self.box = box
        self.settings: dict[str, object] = {"default_channels": [], "min_free_bytes": 0, "min_free_inodes": 0}
        for group in ("envusers", "envadmins"):
            box.ok("groupadd", group)
        for user, groups in USERS.items():
            box.ok("useradd", "--create-home", "--groups", groups, user)
        box.sh(f"mkdir -m 755 /srv/specs {STORE}")
        # On this side of the mounts, and on that side of the network.
        program = Path(__file__).with_name("gated_channel.py")
        self._server = subprocess.Popen(
            ["nsenter", "--target", str(box.leader), "--net", sys.executable, program, channel],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._server.stdout is not None
        self._said = Lines(self._server.stdout)
        self.url = self._said.wait_for("http://")
        self.set(allowed_channels=[self.url])

    # ------------------------------------------------------------------------------------------------------ commands

    def set(self, **changes: object) -> None:
        """Write the settings of the service's store."""
        self.settings.update(changes)
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in self.settings.items())
        self.box.path(f"{STORE}/settings.toml").write_text(text)

    def install(self, *words: str, program: str | Path = Path(sys.prefix, "bin", "envmgr")) -> dict[str, Any]:
        """Install or upgrade as root, by the tests' own envmgr or by the installed one."""
        return self.envmgr("root", "service", "install", *words, program=program).record

    def envmgr(self, user: str, *words: str, program: str | Path = "envmgr") -> Answer:
        """Give a command with ``--json``, wait for its end."""
        return Answer(*self.box.run(program, *words, "--json", user=user))

    def ready(self, user: str, *words: str) -> dict[str, Any]:
        """Give a command that must succeed; return its record."""
        answer = self.envmgr(user, *words)
        assert answer.code == 0, answer.out + answer.err + self.said()
        return answer.record

    def start(self, user: str, *words: str, **options: object) -> subprocess.Popen[str]:
        return self.box.start("envmgr", *words, user=user, **options)

    def said(self) -> str:
        """Return the end of what the service has said."""
        return self.box.ok("journalctl", "--output=cat", "--lines=40", f"--unit={SERVICE}")

    def drop_in(self, name: str, *lines: str) -> None:
        """Add lines to the service's unit; systemd knows them on return, the running daemon does not."""
        text = "\n".join(["[Service]", *lines, ""])
        directory = self.box.path(f"/etc/systemd/system/{SERVICE}.d")
        directory.mkdir(exist_ok=True)
        (directory / f"{name}.conf").write_text(text)
        self.box.ok("systemctl", "daemon-reload")

    # --------------------------------------------------------------------------------------------------------- specs

    def spec(self, *conda: str, below: str = "") -> str:
        """Write a spec that everybody may read; `below` is the part of the channel's URL behind the host."""
        path = f"/srv/specs/{'-'.join(conda)}.yml"
        document = {"channels": [self.url + below, "nodefaults"], "dependencies": list(conda)}
        self.box.path(path).write_text(json.dumps(document))
        return path

    # ---------------------------------------------------------------------------------------------------- the daemon

    @property
    def main_pid(self) -> int:
        """The daemon's process, as the box numbers it."""
        return int(self.box.property(SERVICE, "MainPID"))

    def status_of(self, pid: int) -> dict[str, str]:
        """Return what /proc says of a process."""
        lines = self.box.path(f"/proc/{pid}/status").read_text().splitlines()
        return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}

    def processes(self) -> list[int]:
        """Return every process of the service, the daemon first."""
        group = self.box.property(SERVICE, "ControlGroup")
        found = self.box.sh(f"cat $(find /sys/fs/cgroup -path '*{group}*' -name cgroup.procs) </dev/null | sort -nu")
        return sorted(map(int, found.split()), key=lambda pid: (pid != self.main_pid, pid))

    # ------------------------------------------------------------------------------------------------------- the gate

    def wait_until_asked(self, package: str) -> None:
        """Return when a builder waits for a slow package."""
        self._said.wait_for(f"/{package}-")

    def gate(self, word: str) -> None:
        """Let slow packages through (``open``), or keep them back (``close``)."""
        assert self._server.stdin is not None
        self._server.stdin.write(f"{word}\n")
        self._server.stdin.flush()
        self._said.wait_for("done")

    def close(self) -> None:
        self._server.communicate(timeout=LIMIT_S)


def ended(process: subprocess.Popen[str], stdin: str | None = None) -> Answer:
    """Wait for a command's end, as long as anything in the box may take."""
    return answers.ended(process, stdin, LIMIT_S)


def commands_of(record: dict[str, Any]) -> Sequence[str]:
    """Return the command lines of an environment's users."""
    return [user["command"] for user in record["used_by"]]
