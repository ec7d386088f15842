"""scripts/soak holds for a while, and its checker sees what it is there for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import CHECKOUT
from soaking import checking
from soaking.place import Place, Violation

from envmgr import ready

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A store with a daemon, in which the first spec's environment is ready."""
    made = Place(tmp_path_factory.mktemp("soak"))
    try:
        made.ensure_daemon()
        connection = made.connect()
        (*_, (event, operation)) = connection.events(
            connection.ask("POST", "/v1/environments", made.asking(0)).document["operation"]["id"]
        )
        connection.close()
        assert (event, operation["state"]) == ("end", "succeeded")
        yield made
    finally:
        made.close()


def test_a_round_holds() -> None:
    """Twelve seconds of random requests and faults, by a seed: every environment is whole or absent, nothing stays."""
    environ = {**os.environ, "PYTHONPATH": f"{CHECKOUT / 'scripts'}:{CHECKOUT / 'tests'}"}
    done = subprocess.run(
        [sys.executable, "-m", "soaking", "--minutes", "0.2", "--seed", "20260", "--only", "faults"],
        env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "everything held in" in done.stdout


def test_the_checker_sees_what_is_held_and_left(place: Place) -> None:
    """A lease that a process holds, a build that nobody published, a process in the directory: each is told."""
    lease = ready.acquire(str(place.root), os.listdir(place.root / "envs")[0])
    assert lease is not None
    assert str(os.getpid()) in checking._held(place, {place.pid})[0]
    lease.close()
    assert checking._held(place, {place.pid}) == []
    leftover = place.root / "builds" / "0123456789ab-1"
    leftover.mkdir()
    assert checking._unpublished(place) == [leftover.name]
    leftover.rmdir()
    with subprocess.Popen(["cat"], cwd=place.root, stdin=subprocess.PIPE) as other:
        assert checking._processes(place, {place.pid}) == [f"{other.pid} cat"]
    assert checking._processes(place, {place.pid}) == []


def test_the_checker_sees_damage(place: Place) -> None:
    """A byte that changed in an environment is a violation."""
    checking.check_whole(place)
    file: Path = next(place.root.glob("builds/*/envs/*/share/soak-0/file-0.txt"))
    file.chmod(0o644)
    file.write_bytes(b"x" + file.read_bytes()[1:])
    with pytest.raises(Violation, match=r"is damaged: .*file-0\.txt"):
        checking.check_whole(place)
