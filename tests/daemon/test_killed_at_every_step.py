"""Kill the daemon at every point of every durable step of a build while twenty clients wait for it.

The points are not listed here: a first build writes down those that the daemon reaches. What it does for itself is not
among them; `tests/manager/test_kill_matrix.py` goes through everything that a manager does, one caller at a time.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from fakes.processes import LIMIT_S, Forked, die_now
from fakes.worlds import spec_of
from served import Daemon

from envmgr.fsio import Point, Step
from envmgr.names import Alias
from envmgr.remote.connection import Patience
from envmgr.remote.manager import RemoteManager

CLIENTS = 20


class Observed(Daemon):
    """A daemon that writes down each point that it reaches, and dies at the one that it is told."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.reached = directory / "reached"
        self.order = directory / "die-at"
        self.observer = self._observe

    def _observe(self, step: Step, point: Point) -> None:
        line = json.dumps([step.name, point])
        with self.reached.open("a") as file:
            file.write(line + "\n")
        if self.order.exists() and self.order.read_text() == line:
            die_now()


def ask(root: Path, socket: str, requirement: str) -> list[tuple[str, bool]]:
    """Let all clients ask for one environment at once, in threads; return each one's build, and whether it is whole."""
    answers: list[tuple[str, bool]] = []
    wanted = spec_of(requirement)

    def one(number: int) -> None:
        remote = RemoteManager(root, socket, patience=Patience(reconnect_s=LIMIT_S))
        alias = Alias(f"alias-of-{requirement}") if number == 0 else None
        ensured = remote.ensure(wanted, alias=alias, timeout_s=LIMIT_S)
        answers.append((ensured.lease.build_id, Path(ensured.lease.prefix, "conda-meta").is_dir()))
        ensured.lease.close()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


@pytest.mark.slow
def test_every_client_is_answered_and_the_store_is_whole(tmp_path: Path) -> None:
    """Each client gets the same whole build from the next daemon; of the killed one's nothing is left, at any point."""
    daemon = Observed(tmp_path)
    try:
        daemon.start()
        daemon.reached.unlink()
        assert len(Forked(lambda: ask(daemon.root, daemon.socket, "first")).result()) == CLIENTS
        points = list(dict.fromkeys(daemon.reached.read_text().splitlines()))
        assert len(points) > 20
        for number, point in enumerate(points):
            daemon.order.write_text(point)
            clients = Forked(lambda number=number: ask(daemon.root, daemon.socket, f"package{number}"))
            assert daemon.wait() == -9, point
            daemon.order.unlink()
            daemon.start()
            answers = clients.result()
            assert len(answers) == CLIENTS, point
            assert len(set(answers)) == 1, point
            assert answers[0][1], point
        assert daemon.stop() == 0
        names = [path for path in (daemon.root / "envs").iterdir() if path.name.startswith("env-")]
        assert len(names) == 1 + len(points)
        assert sorted(os.readlink(path).split("/")[2] for path in names) == sorted(os.listdir(daemon.root / "builds"))
        assert os.listdir(daemon.root / "trash") == []
        assert len(list((daemon.root / "envs").glob("alias-of-*"))) == 1 + len(points)
    finally:
        daemon.close()
