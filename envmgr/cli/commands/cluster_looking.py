"""Commands that look at a cluster: status, hosts, show, why."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from envmgr.cli import options, output, rollout
from envmgr.cli.call import Call
from envmgr.cli.commands.cluster import Declared, HostName, name_of
from envmgr.cluster.rollout import summary
from envmgr.events import counted

if TYPE_CHECKING:
    from envmgr.wire.cluster import ClusterStatus, DeclaredEnvironment, HostInfo, Row


def status(
    context: typer.Context,
    x: Annotated[
        str | None, typer.Argument(metavar="[X]", show_default=False, help="One environment, with a row per host.")
    ] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Tell how the cluster is: a row for each declared environment; of one, a row for each host.

    Each failure is told with its reason. Exit code 0, whatever the hosts say.
    """
    call = Call(context, is_json=as_json, is_quiet=quiet)
    if x is not None:
        with call.administration() as administration:
            found = administration.show(name_of(call, administration, x))
        call.answer(rollout.record(found), lambda: _write_rows(found.rows))
        call.say(f"{found.name}: {rollout.words(summary(found))}")
        return
    with call.administration() as administration:
        whole = administration.status()
    record = {**dataclasses.asdict(whole), "environments": [rollout.record(it) for it in whole.environments]}
    call.answer(record, lambda: _write_environments(whole.environments))
    _say_summary(call, whole)


def _write_rows(rows: Sequence[Row]) -> None:
    now = time.time()
    output.write_table(rollout.HEADER, [rollout.cells(row, now) for row in rollout.ordered(rows)])


def _write_environments(environments: Sequence[DeclaredEnvironment]) -> None:
    header = ("NAME", "LABEL", "ALIASES", "WANTED", "HOSTS", "DONE", "FAILED", "BUILDING", "WAITING", "AWAY", "DRIFT")
    rows = []
    for one in environments:
        now = summary(one)
        numbers = (now.hosts, now.ready, now.failed, now.building, now.waiting, now.away)
        drifted = sum(row.is_drift for row in one.rows)
        words = (one.name, one.label or "-", ",".join(one.aliases) or "-", one.state)
        rows.append((*words, *map(str, numbers), str(drifted)))
    output.write_table(header, rows)


def _say_summary(call: Call, whole: ClusterStatus) -> None:
    live = sum(host.is_live for host in whole.hosts)
    call.say(
        f"cluster {whole.uuid}, revision {whole.revision}: {counted(len(whole.environments), 'environment')}, "
        f"{live} of {counted(len(whole.hosts), 'host')} live"
    )
    for one in whole.environments:
        for row in one.rows:
            if row.success is False:
                call.say(f"{one.name} on {row.host}: {row.code or 'failed'}: {row.message}")
    for host in whole.hosts:
        if host.problem is not None:
            call.say(f"{host.host}: {host.problem}")
        if host.drift:
            call.say(f"{host.host} has {', '.join(host.drift)} from another lockfile than the cluster's")


def hosts(context: typer.Context, as_json: options.AsJson = False, quiet: options.Quiet = False) -> None:
    """List the hosts that the cluster knows."""
    call = Call(context, is_json=as_json, is_quiet=quiet)
    with call.administration() as administration:
        found = administration.hosts()
    call.answer({"hosts": [dataclasses.asdict(host) for host in found]}, lambda: _write_hosts(found))


def _write_hosts(found: Sequence[HostInfo]) -> None:
    now = time.time() if sys.stdout.isatty() else None
    header = ("HOST", "STATE", "CLASS", "VERSION", "LABELS", "READY", "BUILDING", "FAILED", "DRIFT", "SEEN", "PROBLEM")
    rows = []
    for host in found:
        state = ("live" if host.is_live else "away") + (", cordoned" if host.is_cordoned else "")
        live = host.live
        labels = "" if live is None else ",".join(f"{key}={value}" for key, value in sorted(live.labels.items()))
        seen = output.moment(host.seen_at) if now is None else output.age(host.seen_at, now)
        numbers = (host.ready, host.building, host.failed, len(host.drift))
        of_it = ("-", "-") if live is None else (live.machine_class, live.version)
        rows.append((host.host, state, *of_it, labels or "-", *map(str, numbers), seen, host.problem or "-"))
    output.write_table(header, rows)


def show(context: typer.Context, x: Declared, as_json: options.AsJson = False, quiet: options.Quiet = False) -> None:
    """Tell everything that the cluster knows of one environment: for whom, its lockfiles, each host."""
    call = Call(context, is_json=as_json, is_quiet=quiet)
    with call.administration() as administration:
        found = administration.show(name_of(call, administration, x))

    def write() -> None:
        output.write_facts(list(_facts(found)))
        if found.rows:
            output.write_text("\n")
            _write_rows(found.rows)

    call.answer(rollout.record(found), write)


def _facts(found: DeclaredEnvironment) -> Iterator[tuple[str, str]]:
    yield "name", found.name
    yield "label", found.label or "-"
    for alias in found.aliases:
        yield "alias", alias
    yield "wanted", found.state
    yield "for", rollout.meant(found.selector)
    yield "at a time", str(found.max_parallel or "all hosts")
    yield "generation", str(found.generation)
    yield "declared", f"{output.moment(found.declared_at)} by {found.declared_by}"
    yield "lockfiles from", f"generation {found.lock_generation}"
    for one in found.lockfiles:
        what = f"{one.machine_class} generation {one.generation}"
        if one.error is not None:
            yield "lockfile", f"{what}: {one.error.get('code')}: {one.error.get('message')}"
        else:
            yield "lockfile", f"{what} {one.digest} by {one.published_by}, {output.moment(one.published_at)}"
    yield "hosts", rollout.words(summary(found))


def why(
    context: typer.Context,
    x: Declared,
    host: HostName,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Tell how an environment does on one host, and why it is not ready there."""
    call = Call(context, is_json=as_json, is_quiet=quiet)
    with call.administration() as administration:
        row = administration.why(name_of(call, administration, x), host)
    call.answer(dataclasses.asdict(row), lambda: output.write_facts(list(_why(row))))


def _why(row: Row) -> Iterator[tuple[str, str]]:
    yield "host", row.host + ("" if row.is_live else " (away)")
    yield "name", row.name
    yield "state", row.state
    if row.phase:  # empty until the first one has begun
        yield "phase", row.phase if row.percent is None else f"{row.phase} {row.percent} %"
    yield "success", {True: "yes", False: "no", None: "not decided"}[row.success]
    if row.message is not None:
        yield "message", row.message if row.code is None else f"{row.code}: {row.message}"
    if row.hint is not None:
        yield "hint", row.hint
    yield "begun", output.moment(row.start)
    yield "ended", output.moment(row.end)
    if row.retry_at is not None:
        yield "tried again", output.moment(row.retry_at)
    yield "generation", str(row.generation)
    yield "lockfile", f"generation {row.lock_generation} {row.lock_digest or '-'}"
    yield "drift", "yes: envmgr cluster heal brings it back in line" if row.is_drift else "no"
