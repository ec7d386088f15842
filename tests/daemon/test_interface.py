"""The OpenAPI document is true: nothing that it allows breaks the daemon, and no answer is missing in it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzzing import explore
from served import Daemon, running, spec

from envmgr.coordination.zookeeper.endpoint import Endpoint

TOKEN = "a-token-for-the-test"


@contextlib.contextmanager
def listening(tmp_path: Path, settings: str = "") -> Iterator[Daemon]:
    """Have a daemon for the length of the block that listens on TCP, too."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"fuzzer admin {hashlib.sha256(TOKEN.encode()).hexdigest()}\n")
    tokens.chmod(0o600)
    with running(tmp_path, f'{settings}listen = "127.0.0.1:0"\ntokens_file = "{tokens}"\n') as found:
        yield found


@pytest.mark.slow
def test_made_up_requests(tmp_path: Path) -> None:
    """Requests that fit and that do not: no 5xx, no undocumented answer, no incident; and the daemon is well after."""
    with listening(tmp_path) as daemon:
        name = daemon.made("numpy")
        with daemon.client() as client:
            client.ask("PUT", "/v1/aliases/training", {"environment": name})
            operation = client.ask("GET", "/v1/operations").data["operations"][0]["id"]
        known = {
            "environment": (name, "training"), "alias": ("training",), "operation": (operation,), "host": ("alpha",),
        }  # fmt: skip
        assert explore(f"http://{daemon.address}", TOKEN, examples=10, known=known) > 200
        check_well(daemon)


@pytest.mark.slow
def test_made_up_requests_to_a_cluster(tmp_path: Path, endpoint: Endpoint) -> None:
    """The same for the cluster's routes on a host of a cluster, where an environment is declared."""
    settings = f'zookeeper = {json.dumps(list(endpoint.servers))}\nzookeeper_root = "{endpoint.root}"\n'
    with listening(tmp_path, f'{settings}zookeeper_session_s = 2\nhost_id = "alpha"\n') as daemon:
        with daemon.client() as client:
            declared = {"spec": spec("numpy"), "alias": "training"}
            name = client.ask("POST", "/v1/cluster/environments", declared).data["name"]
        known = {"environment": (name, "training"), "alias": ("training",), "host": ("alpha",)}
        assert explore(f"http://{daemon.address}", TOKEN, examples=6, known=known, below="/v1/cluster") > 50
        check_well(daemon)


def check_well(daemon: Daemon) -> None:
    with daemon.client() as client:
        assert client.ask("GET", "/v1/health/ready").status == 200
    assert "incident" not in daemon.words
    assert "Traceback" not in daemon.words
