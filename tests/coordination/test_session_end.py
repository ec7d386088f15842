"""How a session ends: claims first, and in its time, whatever the servers do."""

from __future__ import annotations

import signal
import time

import pytest
from coordination.polling import until
from zookeeper_servers import Servers

from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.session import Session


@pytest.mark.slow
def test_nothing_is_certain_any_more_before_the_servers_are_told(endpoint: Endpoint) -> None:
    """Whoever holds a claim hears that it is lost before another host can have it, also when it is we who end."""
    session = Session(endpoint)
    session.start()
    seen: list[bool] = []
    session.at_close(
        lambda: seen.append(session.is_certain(session.epoch)), lambda: seen.append(session.is_certain(session.epoch))
    )
    until(lambda: session.is_certain(session.epoch))
    session.close()
    assert seen == [True, False]


@pytest.mark.slow
def test_a_server_that_stands_still_does_not_hold_up_the_end() -> None:
    """Also of a long session that somebody relies on: its proof, which does not come, is not waited for."""
    with Servers(1) as servers:
        session = Session(Endpoint(servers=servers.addresses, root="/end", session_s=18.0))
        session.start()
        with session.relying():
            servers.signal(0, signal.SIGSTOP)
            until(lambda: not session.is_certain(session.epoch) or _is_asking(session))
            began = time.monotonic()
            session.close()
            assert time.monotonic() - began < 5
        servers.signal(0, signal.SIGCONT)


def _is_asking(session: Session) -> bool:
    """Tell whether a proof is under way that nobody answers: the last one is older than they are apart."""
    lease = session._lease
    return session.certainly_alive_until() - session._clock.monotonic() < lease.timeout_s * 11 / 12 - lease.beat_s - 1
