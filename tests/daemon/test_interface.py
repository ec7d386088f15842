"""The OpenAPI document is true: nothing that it allows breaks the daemon, and no answer is missing in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fuzzing import explore
from served import Daemon, running

TOKEN = "a-token-for-the-test"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    tokens = tmp_path / "tokens"
    tokens.write_text(f"fuzzer admin {hashlib.sha256(TOKEN.encode()).hexdigest()}\n")
    tokens.chmod(0o600)
    with running(tmp_path, f'listen = "127.0.0.1:0"\ntokens_file = "{tokens}"\n') as found:
        yield found


@pytest.mark.slow
def test_made_up_requests(daemon: Daemon) -> None:
    """Requests that fit and that do not: no 5xx, no undocumented answer, no incident; and the daemon is well after."""
    name = daemon.made("numpy")
    with daemon.client() as client:
        client.ask("PUT", "/v1/aliases/training", {"environment": name})
        operation = client.ask("GET", "/v1/operations").data["operations"][0]["id"]
        known = {
            "environment": (name, "training"), "alias": ("training",), "operation": (operation,), "host": ("host-1",),
        }  # fmt: skip
        url = f"http://{daemon.address}"
        assert explore(url, TOKEN, examples=10, known=known) > 200
        assert client.ask("GET", "/v1/health/ready").status == 200
    assert "incident" not in daemon.words
    assert "Traceback" not in daemon.words
