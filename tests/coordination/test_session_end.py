"""How a session ends: claims first, and in its time, whatever the servers do."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import pytest
from coordination.polling import until
from zookeeper_servers import Servers

from envmgr.coordination.zookeeper.claims import Claims
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


@pytest.mark.slow
def test_servers_that_lost_what_was_seen_of_them_are_reached_again() -> None:
    """kazoo's trap: servers that were emptied, or restored from a backup, refuse who has seen newer than they have.

    The session that is refused ends, and a new one begins without a restart; whose tree it is, is for others to say.
    """
    with Servers(1) as servers:
        session = Session(Endpoint(servers=servers.addresses, root="/end", session_s=2.0))
        session.start()
        try:
            for number in range(20):
                session.create(f"/v1/seen-{number}")
            servers.kill(0)
            shutil.rmtree(servers._directory(0) / "data" / "version-2")
            servers.start(0)
            servers.wait()
            until(lambda: "no session was granted" in (session.problem or ""))
            assert until(lambda: session.is_connected)
            assert session.problem is None
            assert session.epoch == 2
            assert session.get("/v1") is None
        finally:
            session.close()


@pytest.mark.slow
def test_a_session_that_is_older_than_what_it_holds_is_none(tmp_path: Path) -> None:
    """Servers restored from a backup may know the session still, and nothing of the claim that it took since."""
    with Servers(1) as servers:
        data = servers._directory(0) / "data" / "version-2"
        session = Session(Endpoint(servers=servers.addresses, root="/end", session_s=3.0))
        session.start()
        try:
            session.create("/v1/early")
            servers.kill(0)
            shutil.copytree(data, tmp_path / "backup")
            servers.start(0)
            with Claims(session, "here").acquire("/v1/claims/build/store/env", timeout_s=20) as claim:
                client, epoch = session._client, session.epoch
                assert client is not None
                servers.kill(0)
                until(lambda: client.last_zxid == 0)
                shutil.rmtree(data)
                shutil.copytree(tmp_path / "backup", data)
                servers.start(0)
                until(lambda: session.is_connected)
                assert session.epoch == epoch + 1
                assert claim.is_lost
                assert session.get("/v1/early") is not None
                assert session.get(claim.node) is None
        finally:
            session.close()


@pytest.mark.slow
def test_servers_that_were_away_for_long_and_lost_nothing_go_on_with_the_session() -> None:
    """The session is counted from when they are back; it is resumed, with what it holds."""
    with Servers(1) as servers:
        session = Session(Endpoint(servers=servers.addresses, root="/end", session_s=5.0))
        session.start()
        try:
            session.create("/v1/mine", is_ephemeral=True)
            client = session._client
            assert client is not None
            servers.kill(0)
            until(lambda: client.last_zxid == 0)
            servers.start(0)
            assert session.get("/v1/mine", timeout_s=20) is not None
            assert session.epoch == 1
        finally:
            session.close()
