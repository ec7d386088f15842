"""A daemon over the real builder: cancelled in every phase, and nothing of the build is left."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from answers import ended
from demo.packages import fabricate, index
from whole_hosts import Host, line_of, write_links, write_wheel

from envmgr.remote import events
from envmgr.remote.connection import Connection
from envmgr.wire import socket as wire
from envmgr.wire.address import socket_of

PHASES = ("solve", "fetch", "unpack", "link", "pip-lock", "pip", "compile", "check", "sync")
LONG = {"fetch", "unpack", "link", "pip-lock", "compile"}
"""Phases that take longer than the builder's end is looked for: whoever cancels there is never too late."""


@contextlib.contextmanager
def daemon(host: Host) -> Iterator[str]:
    """Run a daemon for the length of the block; yield the path of its socket."""
    process = host.start("daemon")
    try:
        line_of(process.stderr, "listening on")
        path = socket_of(str(host.root))
        assert path is not None
        yield path
    finally:
        process.send_signal(signal.SIGTERM)
        assert ended(process).code == 0


@pytest.fixture
def cold_host(python_host: Host, tmp_path: Path) -> Host:
    """The host with Python, a channel with a large package that it has never seen, and a page of wheels."""
    channel, page = tmp_path / "channel", tmp_path / "index"
    files = {f"share/large/{number}": os.urandom(1 << 18) for number in range(100)}
    fabricate(channel, "large", "1.0", files=files)
    index(channel)
    write_wheel(page / "files", "alpha", "1.0")
    write_links(page)
    settings = {**python_host.settings, "no_index": True, "find_links": [str(page / "files")]}
    return Host(python_host.directory, {**settings, "default_channels": [str(channel), *_channels(python_host)]})


def _channels(host: Host) -> list[str]:
    found = host.settings["default_channels"]
    assert isinstance(found, list)
    return found


def test_cancelled_in_every_phase(cold_host: Host, python_host: Host) -> None:
    """Whenever an operation is cancelled, it ends soon, the name is absent or whole, and no process is left."""
    spec = cold_host.spec("python", "large", pip=["alpha"])
    name = cold_host.run("name", spec).out.strip()
    request = wire.EnsureRequest(spec=wire.SpecDocument(text=spec.read_text(), includes={}))
    states = {}
    try:
        with daemon(cold_host) as path:
            for phase in PHASES:
                states[phase] = cancel_in(path, request, phase)
                cold_host.check_whole()
                assert cold_host.litter() == []
                assert (name in cold_host.names()) == (states[phase] == "succeeded")
                if name in cold_host.names():
                    cold_host.ready("remove", name, "--forget")
    finally:
        python_host.set()
    assert {states[phase] for phase in LONG} == {"cancelled"}
    assert set(states.values()) <= {"cancelled", "succeeded"}


def cancel_in(path: str, request: wire.EnsureRequest, phase: str) -> str:
    """Have an environment made, cancel it when a phase begins, and return the state in which it ends."""
    with Connection(path) as asking:
        operation = asking.ask("POST", "/v1/environments", request)["operation"]["id"]
    is_told = False
    with Connection(path) as following:
        for entry in events.read(following, f"/v1/operations/{operation}/events", 0):
            if entry.kind == "progress" and (entry.data["kind"], entry.data["phase"]) == ("begin", phase):
                is_told = True
                with Connection(path) as telling:
                    telling.ask("DELETE", f"/v1/operations/{operation}")
            if entry.kind == "end":
                assert is_told, f"no phase {phase}"
                return str(entry.data["state"])
    raise AssertionError("the events have no end")
