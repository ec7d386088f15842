"""``envmgr status``: the daemon and its store at a glance; of a store without a daemon, what its files tell.

That there is no daemon is an answer (exit code 0); one that is there and does not answer is an error.
"""

# ruff: noqa: PLC0415 - the store or the connection, whichever is needed

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from envmgr.cli import options, output, shapes
from envmgr.cli.call import Call
from envmgr.events import counted
from envmgr.wire import address

Found = Mapping[str, Any]
"""A JSON record, as it crosses the socket or as ``--json`` prints it."""

_UNFINISHED = ("running", "queued")
_SHOWN_FAILURES = 10
_OF_THE_DAEMON = ("version", "pid", "host", "mode", "started_at", "is_draining", "role", "running", "queued")
_OF_THE_STORE = ("environments", "leases", "free_bytes", "size_bytes")


def status(context: typer.Context, as_json: options.AsJson = False, quiet: options.Quiet = False) -> None:
    """Tell how the daemon and the store are.

    Shown: since when the daemon runs and what you may do, what is made and waits, what failed lately and from when it
    is tried again, the disk. Without a daemon: what the store tells; exit code 0, too.
    """
    call = Call(context, is_json=as_json, is_quiet=quiet)
    path = address.socket_of(call.root)
    found = _of_daemon(path)
    if found is None:
        found = _of_store(call)
    call.answer({"socket": path, **found}, lambda: output.write_facts(list(_facts(found, time.time()))))
    if found["daemon"] is None:
        call.say("no daemon is running; envmgr daemon starts one")


def _of_daemon(path: str | None) -> Found | None:
    """Return what the daemon says, or ``None`` where none listens."""
    from envmgr.remote.connection import Absent, Connection

    if path is None:
        return None

    def ask(target: str) -> Found:
        with contextlib.closing(Connection(path)) as connection:
            return connection.ask("GET", f"/v1/{target}")

    try:
        glance = ask("status")
    except Absent:
        return None
    operations = [one for one in ask("operations")["operations"] if one["state"] in _UNFINISHED]
    return {
        "root": glance["root"],
        "daemon": {key: glance.get(key) for key in _OF_THE_DAEMON},
        **{key: glance.get(key) for key in _OF_THE_STORE},
        "cluster": glance.get("cluster"),
        "operations": operations,
        "failures": _failures(ask("environments")["environments"]),
    }


def _of_store(call: Call) -> Found:
    """Return what the files of the store say; that of a store that is not there is empty."""
    from envmgr.manager import inspection
    from envmgr.manager.context import free_space

    infos = [shapes.environment(info) for info in inspection.list_all(call.layout())]
    ready = [info for info in infos if info["build_id"] is not None]
    sizes = [size for info in ready if isinstance(size := info["size_bytes"], int)]
    return {
        "root": call.root,
        "daemon": None,
        "environments": len(ready),
        "leases": sum(bool(info["used_by"]) for info in ready),
        "free_bytes": free_space(Path(call.root))[0] if call.has_store() else None,
        "size_bytes": sum(sizes),
        "cluster": None,
        "operations": [],
        "failures": _failures(infos),
    }


def _failures(infos: Sequence[Found]) -> list[Found]:
    """Return what failed last, the latest first."""
    failed = [{"name": info["name"], "label": info["label"], **info["failure"]} for info in infos if info["failure"]]
    return sorted(failed, key=lambda failure: -failure["at"])


def _facts(found: Found, now: float) -> Iterator[tuple[str, str]]:
    daemon = found["daemon"]
    if daemon is None:
        yield "daemon", "not running"
    else:
        state = "draining" if daemon["is_draining"] else "running"
        since = output.moment(daemon["started_at"])
        yield "daemon", f"{state} since {since}, envmgr {daemon['version']}, pid {daemon['pid']} on {daemon['host']}"
        yield "you", {"admin": "may do everything", "use": "may create and use"}.get(daemon["role"], daemon["role"])
    yield "store", found["root"] + ("" if daemon is None else f" ({daemon['mode']})")
    yield "environments", f"{found['environments']}, {found['leases']} in use"
    yield "disk", f"{output.size(found['size_bytes'])} in environments, {output.size(found['free_bytes'])} free"
    if found["cluster"] is not None:
        yield from _cluster(found["cluster"])
    if daemon is not None:
        yield "operations", f"{daemon['running']} running, {daemon['queued']} waiting"
    for operation in found["operations"]:
        yield "operation", _operation(operation, now)
    failures = found["failures"]
    for failure in failures[:_SHOWN_FAILURES]:
        yield "failure", _failure(failure, now)
    if len(failures) > _SHOWN_FAILURES:
        yield "failure", f"and {len(failures) - _SHOWN_FAILURES} more; envmgr list names them"


def _cluster(found: Found) -> Iterator[tuple[str, str]]:
    state = "connected" if found["is_connected"] else "no answer from ZooKeeper"
    cordoned = ", cordoned" if found["is_cordoned"] else ""
    yield "cluster", f"{found['uuid'] or 'not known yet'}, revision {found['revision']}: {state}"
    yield "this host", f"{found['host']}, {counted(found['declared'], 'environment')} wanted here{cordoned}"
    if found["problem"] is not None:
        yield "problem", found["problem"]


def _operation(operation: Found, now: float) -> str:
    what = f"{operation['kind']} {operation['name'] or ''}".rstrip()
    if operation["state"] == "queued":
        how = f"{counted(operation['position'], 'operation')} to go first"
    else:
        began = operation["started_at"] or operation["created_at"]
        how = f"{operation['phase'] or 'running'}, for {max(0.0, now - began):.0f} s"
    return f"{what}: {how}; asked for by {operation['by']}, {counted(operation['waiters'], 'waiter')}"


def _failure(failure: Found, now: float) -> str:
    again = output.not_before(failure["retry_at"], now)
    label = f" {failure['label']}" if failure["label"] else ""
    return f"{failure['name']}{label} {output.moment(failure['at'])} {failure['code']}: {failure['message']}{again}"
