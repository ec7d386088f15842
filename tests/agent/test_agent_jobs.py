"""One try at an environment: how far it is, and how it ends."""

from __future__ import annotations

import threading
import typing

from agent.worlds import World
from coordination.polling import until
from fakes.worlds import name_of

from envmgr.agent import jobs
from envmgr.agent.jobs import Job, Threads
from envmgr.errors import NoSpace
from envmgr.events import Event, Phase

NAME = name_of("numpy")


def test_the_percentage_only_rises_and_stays_below_a_hundred() -> None:
    """Whatever comes in whatever order, what is told never goes back, and a hundred is for what is ready."""
    job = Job(NAME, "make")
    assert sum(jobs._WEIGHTS.values()) == 100
    told = []
    for phase in typing.get_args(Phase):
        job.hear(Event("begin", phase))
        for done in (0, 3, 1, 10):
            job.hear(Event("progress", phase, done=done, total=10))
            told.append(job.percent)
        job.hear(Event("end", phase))
        told.append(job.percent)
    assert told == sorted(told)
    assert (told[0], told[-1], job.phase) == (0, 99, "publish")


def test_waiting_for_somebody_else_is_no_phase_of_the_build() -> None:
    """While it waits it says so, and afterwards it goes on where it was."""
    job = Job(NAME, "make")
    job.hear(Event("begin", "solve"))
    job.hear(Event("begin", "wait", "waiting for another host"))
    assert (job.is_waiting, job.phase) == (True, "solve")
    job.hear(Event("end", "wait"))
    assert not job.is_waiting


def test_a_job_ends_however_its_work_does() -> None:
    """An error of ours, a surprise, or none: the job is done, and its agent is woken."""
    woken = threading.Semaphore(0)
    threads = Threads(woken.release)

    def full() -> None:
        raise NoSpace("no space left")

    def surprising() -> None:
        raise ZeroDivisionError

    found = []
    for work in (full, surprising, lambda: None):
        job = Job(NAME, "make")
        threads.start(job, work)
        assert woken.acquire(timeout=10)
        until(lambda job=job: job.is_done)  # type: ignore[misc]
        found.append(None if job.error is None else job.error.code)
    assert found == ["no_space", "unexpected", None]


def test_a_surprise_of_the_agent_ends_nothing() -> None:
    """A defect in a pass is told as the host's problem, and the next pass is as if it had not been."""
    world = World()
    name = world.declare("numpy")
    world.hands.surprise = ZeroDivisionError()
    world.turn()
    assert "ZeroDivisionError" in str(world.agent.glance().problem)
    world.turn()
    assert "ZeroDivisionError" in str(world.told.problem), "the cluster sees a host that seems to be well"
    world.hands.surprise = None
    world.settle()
    assert world.state(name).state == "ready"
    assert world.told.problem is None


def test_an_alias_of_the_cluster_that_somebody_takes_comes_back() -> None:
    """What a user of the host does to it, moving or removing it, lasts until the next pass."""
    world = World()
    name, other = world.declare("numpy", alias="tools"), world.declare("scipy")
    world.settle()
    world.hands.aliases["tools"] = other  # type: ignore[index]
    world.turn()
    assert world.hands.aliases == {"tools": name}
    world.hands.aliases.clear()
    world.turn()
    assert world.hands.aliases == {"tools": name}
