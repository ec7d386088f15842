"""The few hosts that give archives: who enters, however many come, and that all know the same ones."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from fakes.tree import FakeServers, FakeTree

from envmgr.agent import givers
from envmgr.coordination.zookeeper import tree as paths

HOSTS = 1000


class Early(FakeTree):
    """A session that read the list of those that give before anybody had entered."""

    def __init__(self, servers: FakeServers) -> None:
        super().__init__(servers, servers.session()._session)

    def children(
        self, path: str, *, watch: Callable[[], None] | None = None, timeout_s: float = 5.0
    ) -> tuple[str, ...]:
        if path == paths.ARCHIVES:
            return ()
        return super().children(path, watch=watch, timeout_s=timeout_s)


def name(number: int) -> str:
    return f"host-{number:04d}"


def url(number: int) -> str:
    return f"http://{name(number)}:7463"


def entered(servers: FakeServers) -> int:
    return len(servers.session().children(paths.ARCHIVES))


@pytest.mark.parametrize("hosts", [1, 5, givers.MOST])
def test_where_there_is_room_for_all_each_enters(hosts: int) -> None:
    """Whatever the lot says, and although none saw another enter."""
    servers = FakeServers()
    for number in range(hosts):
        found = givers.found(Early(servers), name(number), url(number), draw=lambda: 0.999999)
        assert found.is_ranked
    assert entered(servers) == hosts


def test_of_many_that_stand_there_at_once_about_as_many_enter_as_there_is_room_for() -> None:
    """Each saw the empty list, and all the others that saw it."""
    servers, lots = FakeServers(), random.Random(1)
    for number in range(HOSTS):
        servers.session().create(f"{paths.GIVING}/{name(number)}", is_ephemeral=True)
    for number in range(HOSTS):
        givers.found(Early(servers), name(number), url(number), draw=lots.random)
    assert givers.MOST / 2 < entered(servers) < givers.MOST * 2


def test_at_the_worst_moment_few_too_many_enter() -> None:
    """Each saw the empty list, and only those before it: the sum of 32/n, not all of them."""
    servers, lots = FakeServers(), random.Random(1)
    for number in range(HOSTS):
        givers.found(Early(servers), name(number), url(number), draw=lots.random)
    assert givers.MOST < entered(servers) < HOSTS / 5
    known = {givers.found(servers.session(), f"guest-{number}", None).others for number in range(3)}
    assert [len(others) for others in known] == [givers.MOST]


def test_one_that_comes_later_enters_when_there_is_room_again() -> None:
    """A full list costs one read; when some are gone, those that give and are not in it are in the lot."""
    servers = FakeServers()
    sessions = [servers.session() for _ in range(givers.MOST)]
    for number, session in enumerate(sessions):
        givers.found(session, name(number), url(number))
    late = servers.session()
    assert not givers.found(late, "late", "http://late:1").is_ranked
    assert entered(servers) == givers.MOST
    for session in sessions[:2]:
        servers.end(session._session)
    assert givers.found(late, "late", "http://late:1", draw=lambda: 0.999999).is_ranked
    assert entered(servers) == givers.MOST - 1
