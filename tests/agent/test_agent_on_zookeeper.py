"""The agent with its own thread, on real sessions of a real ZooKeeper; its hands are fake."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from agent.members import Admin, administrator
from agent.worlds import Coordinator, Hands, identity
from coordination.polling import until
from fakes.worlds import NOWHERE, SUBDIR
from link_proxy import LinkProxy
from zookeeper_servers import Servers

from envmgr import settings
from envmgr.agent.agent import Agent
from envmgr.agent.identity import Identity
from envmgr.agent.memory import Memory
from envmgr.coordination.zookeeper import tree as paths
from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.session import Session
from envmgr.manager.context import SystemClock

_SETTINGS = settings.load(
    root=None, mode="personal", environ={"ENVMGR_AGENT_INTERVAL_S": "3600", "ENVMGR_ZOOKEEPER_SESSION_S": "2"},
    home=NOWHERE, etc=NOWHERE, subdir=SUBDIR,
)  # fmt: skip
"""A pass an hour: whatever happens in these tests, happens because the agent was told."""


class Host:
    """One agent on a session of its own."""

    def __init__(self, endpoint: Endpoint, who: Identity) -> None:
        self.session = Session(endpoint)
        self.hands = Hands()
        self.memory = Memory()
        self.agent = Agent(
            self.session, Coordinator(), self.hands, self.hands, who,
            settings_of=lambda: _SETTINGS, clock=SystemClock(), memory=self.memory, keep=self._keep,
        )  # fmt: skip

    def _keep(self, memory: Memory) -> None:
        self.memory = memory

    def start(self) -> None:
        self.session.start(0.0)
        self.agent.start()


@contextlib.contextmanager
def host(endpoint: Endpoint, who: Identity) -> Iterator[Host]:
    """Have an agent run for the length of the block; it leaves at its end."""
    found = Host(endpoint, who)
    found.start()
    try:
        yield found
    finally:
        found.agent.leave()
        found.session.close()


@pytest.fixture
def admin(endpoint: Endpoint) -> Iterator[Admin]:
    with administrator(endpoint) as found:
        yield found


def test_what_is_declared_is_heard_at_once(endpoint: Endpoint, admin: Admin) -> None:
    """The watch on the revision brings a pass long before its time, again and again; also before there is a tree."""
    with host(endpoint, identity("a")) as found:
        until(lambda: "cluster create" in str(found.agent.glance().problem))
        for word in ("one", "two", "three"):
            name = admin.create(word)
            began = time.monotonic()
            until(lambda name=name: name in found.hands.builds)  # type: ignore[misc]
            assert time.monotonic() - began < 5
            admin.until_state(name, "ready", "a")


@pytest.mark.slow
def test_a_link_that_breaks_and_is_mended(endpoint: Endpoint, zookeeper: Servers, admin: Admin) -> None:
    """What was declared meanwhile is made when the connection is back, in the same session or in a new one."""
    with LinkProxy(zookeeper.addresses[0]) as proxy:
        behind = Endpoint(servers=(proxy.address,), root=endpoint.root, session_s=2.0)
        with host(behind, identity("a")) as found:
            admin.until_state(admin.create("before"), "ready", "a")
            proxy.break_all()
            admin.until_state(admin.create("broken"), "ready", "a")
            proxy.cut()
            until(lambda: not admin.session.children(paths.HOSTS))
            assert not found.agent.glance().is_connected
            name = admin.create("meanwhile")
            proxy.mend()
            admin.until_state(name, "ready", "a")
            assert found.session.epoch == 2
            assert admin.session.children(paths.HOSTS) == ("a",)


def test_a_second_machine_of_the_name_waits_and_takes_another(endpoint: Endpoint, admin: Admin) -> None:
    """Both are hosts of the cluster in the end, and both have what is declared."""
    name = admin.create("numpy")
    lasting = replace(endpoint, session_s=20.0)  # the first keeps its name however busy this machine is
    with host(lasting, identity("a", instance="i1")):
        admin.until_state(name, "ready", "a")
        with host(lasting, identity("a", machine="m2", instance="i2")) as two:
            admin.until_state(name, "ready", "a", f"a-{'m2' * 3}")
            assert "another machine" in str(two.agent.glance().problem)
    assert admin.session.children(paths.HOSTS) == ()


def test_an_agent_that_comes_and_goes_leaves_nothing(endpoint: Endpoint, admin: Admin) -> None:
    """No thread, no ephemeral node; the host stays known."""
    name = admin.create("numpy")
    with host(endpoint, identity("a", instance="i0")):
        admin.until_state(name, "ready", "a")
    before = threading.active_count()
    for number in range(3):
        with host(endpoint, identity("a", instance=f"i{number + 1}")):
            until(lambda: admin.session.children(paths.HOSTS) == ("a",))
        assert admin.session.children(paths.HOSTS) == ()
        assert threading.active_count() == before
    assert not admin.row(name, "a").is_live


@pytest.mark.slow
def test_servers_that_stand_still_do_not_hold_up_the_end() -> None:
    """With a session that would last for long, a host is gone after a few seconds, its last word unheard."""
    with Servers(1) as servers:
        endpoint = Endpoint(servers=servers.addresses, root="/still", session_s=30.0)
        with administrator(endpoint) as admin:
            name = admin.create("numpy")
            found = Host(endpoint, identity("a"))
            found.start()
            admin.until_state(name, "ready", "a")
        # It is read before the agent hears that it is written: an answer that is on its way would be waited for, too.
        until(lambda: found.agent._woken._waiters)  # type: ignore[attr-defined]  # it sleeps
        servers.signal(0, signal.SIGSTOP)
        began = time.monotonic()
        found.agent.leave()
        assert time.monotonic() - began < 4.9
        found.session.close()
        servers.signal(0, signal.SIGCONT)
