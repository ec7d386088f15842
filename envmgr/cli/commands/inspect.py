"""Commands that look: list, show, logs, verify, settings, doctor."""

# ruff: noqa: PLC0415 - settings and manager, where they are needed

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from envmgr.cli import options, output, shapes
from envmgr.cli.call import Call
from envmgr.errors import Corrupt, EnvmgrError, PermissionRefused, UsageError
from envmgr.events import counted

if TYPE_CHECKING:
    from envmgr.manager.doctor import Finding
    from envmgr.model import EnvironmentInfo, Record

_SHOWN_USERS = 3
_CORRUPT_CHECKS = frozenset({"envs", "records"})
"""Checks of doctor whose errors mean that bytes are not what they must be."""


def list_(context: typer.Context, as_json: options.AsJson = False, quiet: options.Quiet = False) -> None:
    """List the environments of this host."""
    call = Call(context, is_json=as_json, is_quiet=quiet)
    # Neither settings nor what builds: it answers beside a broken settings file, and in half the time.
    from envmgr.remote import looking

    found = looking.list_all(call.root)
    record = {"root": call.root, "environments": [shapes.environment(info) for info in found]}
    call.answer(record, lambda: _write_list(found))
    if not found:
        call.say(f"nothing is in {call.root} yet")


def _write_list(found: Sequence[EnvironmentInfo]) -> None:
    now = time.time() if sys.stdout.isatty() else None
    header = ("NAME", "LABEL", "ALIASES", "STATE", "PYTHON", "SIZE", "CREATED", "USED BY")
    rows = [
        (
            info.name,
            info.label or "-",
            ",".join(info.aliases) or "-",
            f"{info.state},pinned" if info.is_pinned else info.state,
            info.python_version or "-",
            output.size(info.size_bytes),
            output.moment(info.created_at) if now is None else output.age(info.created_at, now),
            _users(info),
        )
        for info in found
    ]
    output.write_table(header, rows)


def _users(info: EnvironmentInfo) -> str:
    shown = [str(user.pid) for user in info.used_by[:_SHOWN_USERS]]
    more = len(info.used_by) - len(shown)
    return ",".join([*shown, f"+{more}"] if more else shown) or "-"


def show(
    context: typer.Context, x: options.Environment, as_json: options.AsJson = False, quiet: options.Quiet = False
) -> None:
    """Tell everything that is known of one environment."""
    call = Call(context, is_json=as_json, is_quiet=quiet)
    name = call.name(x)
    from envmgr.remote import looking
    from envmgr.store import records

    info = looking.show(call.root, name)
    record = None
    if info.build_id is not None and info.state != "damaged":
        record = records.read_record(call.layout(), name, info.build_id)
    call.answer({**shapes.environment(info), **shapes.build(record)}, lambda: _write_facts(info, record))


def _write_facts(info: EnvironmentInfo, record: Record | None) -> None:
    facts = [
        ("name", info.name),
        ("label", info.label or "-"),
        *(("alias", alias) for alias in info.aliases),
        ("state", info.state),
        ("path", str(info.path)),
        ("prefix", str(info.prefix or "-")),
        ("python", info.python_version or "-"),
        ("packages", str(info.packages or "-")),
        ("size", output.size(info.size_bytes)),
        ("created", output.moment(info.created_at)),
        ("pinned", "yes" if info.is_pinned else "no"),
        ("machine class", info.machine_class or "-"),
        ("digest", info.digest or "-"),
        ("lock digest", info.lock_digest or "-"),
        ("build", info.build_id or "-"),
    ]
    if record is not None:
        facts += [
            ("built on", f"{record.host} by envmgr {record.envmgr_version} in {record.duration_s:.1f} s"),
            *(("phase", f"{phase} {duration_s:.1f} s") for phase, duration_s in record.phases_s.items()),
            *(("skipped script", package) for package in record.skipped_link_scripts),
            *(("warning", warning) for warning in record.warnings),
        ]
    if info.failure is not None:
        failure = info.failure
        again = output.not_before(failure.retry_at, time.time())
        facts.append(("failure", f"{output.moment(failure.at)} {failure.code}: {failure.message}{again}"))
    facts += [("used by", f"{user} ({user.how})") for user in info.used_by] or [("used by", "-")]
    output.write_facts(facts)


def logs(
    context: typer.Context, x: options.Environment, as_json: options.AsJson = False, quiet: options.Quiet = False
) -> None:
    """Print the log of the build, or of the last failure."""
    call = Call(context, is_json=as_json, is_quiet=quiet)
    name = call.name(x)
    from envmgr.manager import inspection

    text = inspection.read_log(call.layout(), name)
    call.answer({"name": name, "log": text}, text)


def verify(
    context: typer.Context, x: options.Environment, as_json: options.AsJson = False, quiet: options.Quiet = False
) -> int:
    """Compare every file with what was installed.

    Prints what differs, and exits with 12 if anything does.
    """
    call = Call(context, is_json=as_json, is_quiet=quiet)
    name = call.name(x)
    from envmgr.manager import verification
    from envmgr.settings import machine

    damages = verification.verify(call.layout(), name, machine.subdir())
    record = {"name": name, "is_whole": not damages, "damages": [damage.to_json() for damage in damages]}
    lines = []
    for damage in damages:
        others = [other for other in damage.names if other != name]
        shared = f" (shared with {', '.join(others)})" if others else ""
        lines.append(output.one_line(f"{damage.path} {damage.message}{shared}") + "\n")
    call.answer(record, "".join(lines))
    if not damages:
        call.say(f"{name} is whole")
        return 0
    call.say(f"{name} has {counted(len(damages), 'damage')}; envmgr repair {name} builds it again")
    return Corrupt.exit_code


def doctor(
    context: typer.Context,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Move what is foreign in envs/ to the trash, undeleted.")
    ] = False,
    only: Annotated[
        str | None, typer.Option("--only", metavar="CHECK", show_default=False, help="One check, such as channel.")
    ] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Check this host and its store.

    Looked at: daemon, settings, cluster, file system, locks, disk, clock, channels, cache, foreign things. Where there
    is no store one is made, if it may be yours; who is not its owner is told what he may see. Exit code 0 without
    errors (warnings are none), 12 if something in the store is corrupt, else 1.
    """
    call = Call(context, is_json=as_json, is_quiet=quiet)
    findings = _findings(call, only=only, quarantine=quarantine)
    errors = [finding for finding in findings if finding.status == "error"]
    record = {"root": call.root, "is_fit": not errors, "findings": [finding.to_json() for finding in findings]}
    call.answer(record, lambda: _write_findings(findings))
    if any(finding.check in _CORRUPT_CHECKS for finding in errors):
        return Corrupt.exit_code
    return EnvmgrError.exit_code if errors else 0


def _findings(call: Call, *, only: str | None, quarantine: bool) -> tuple[Finding, ...]:
    from pathlib import Path

    from envmgr import wiring
    from envmgr.manager.doctor import Finding

    own: dict[str, Callable[[], Finding]] = {
        "daemon": lambda: _daemon(call.root),
        "settings": lambda: _settings(call.root),
        "cluster": lambda: _cluster(call.root),
    }
    findings: list[Finding] = []
    for name, look in own.items():
        if only in (None, name):
            findings.append(look())
        if findings and (findings[-1].check, findings[-1].status) == ("settings", "error"):
            return tuple(findings)
    if only in own:
        return tuple(findings)
    uid, _ = wiring.owner(Path(call.root))
    if uid != os.geteuid() and quarantine:
        raise PermissionRefused(f"only the owner of {call.root} (uid {uid}) moves what stands in it")
    if uid != os.geteuid() and not call.has_store():
        return (*findings, Finding("records", "ok", f"there is no store in {call.root} yet"))
    manager = call.manager(writable=uid == os.geteuid())
    try:
        return (*findings, *manager.examine(only=only, quarantine=quarantine))
    except UsageError as error:
        error.hint = f"{error.hint}, {', '.join(own)}"
        raise


def _daemon(root: str) -> Finding:
    from pathlib import Path

    from envmgr import wiring
    from envmgr.manager.doctor import Finding
    from envmgr.remote.connection import Absent, Connection
    from envmgr.wire import address

    path = address.socket_of(root)
    try:
        if path is not None:
            with Connection(path, is_patient=False) as connection:
                connection.ask("GET", "/v1/health/live")
            return Finding("daemon", "ok", f"answers at {path}")
    except Absent as error:
        if wiring.owner(Path(root))[1] == "service":
            return Finding("daemon", "error", error.message, error.hint)
    except EnvmgrError as error:
        return Finding("daemon", "error", error.message, error.hint)
    return Finding("daemon", "ok", "none is running; the store's owner works without one")


def _settings(root: str) -> Finding:
    from pathlib import Path

    from envmgr import wiring
    from envmgr.manager.doctor import Finding

    try:
        warnings = wiring.settings(Path(root)).warnings
    except EnvmgrError as error:
        return Finding("settings", "error", f"{error.message}; what depends on them was not looked at", error.hint)
    return Finding("settings", "warning" if warnings else "ok", "; ".join(warnings) or "they can be read")


def _cluster(root: str) -> Finding:
    """Look whether the cluster's ZooKeeper answers, knows this host, and has a tree of a format that we read."""
    from pathlib import Path

    from envmgr import wiring
    from envmgr.manager.doctor import Finding

    is_set = True
    try:
        is_set = bool(wiring.settings(Path(root)).zookeeper)
        with wiring.administration(root) as administration:  # a daemon may have been told more than these settings
            found = administration.cluster()
            hosts = administration.hosts()
    except EnvmgrError as error:
        if not is_set and isinstance(error, UsageError):
            return Finding("cluster", "ok", "this host is in none")
        return Finding("cluster", "error", error.message, error.hint)
    wrong = [f"{host.host}: {host.problem}" for host in hosts if host.problem is not None]
    live = sum(host.is_live for host in hosts)
    text = "; ".join([f"{found.uuid}, {live} of {counted(len(hosts), 'host')} live", *wrong])
    return Finding("cluster", "warning" if wrong else "ok", text)


def _write_findings(findings: Sequence[Finding]) -> None:
    rows = []
    for finding in findings:
        hint = f" (hint: {finding.hint})" if finding.hint else ""
        rows.append((finding.status, finding.check, finding.message + hint))
    output.write_table(("STATUS", "CHECK", "FINDING"), rows)


def settings(context: typer.Context, as_json: options.AsJson = False, quiet: options.Quiet = False) -> None:
    """Show every setting, its value and its source.

    Passwords are hidden.
    """
    from pathlib import Path

    from envmgr import wiring
    from envmgr.settings import listing

    call = Call(context, is_json=as_json, is_quiet=quiet)
    found = wiring.settings(Path(call.root))
    rows = listing.table(found)
    record = {
        "root": call.root,
        "mode": found.mode,
        "subdir": found.subdir,
        "settings": [row.to_json() for row in rows],
        "warnings": list(found.warnings),
    }
    call.answer(
        record,
        lambda: output.write_table(
            ("SETTING", "VALUE", "SOURCE", "MEANING"),
            [
                (
                    row.key,
                    output.value(row.value),
                    row.source,
                    row.doc + (" Cluster-wide." if row.is_cluster_wide else ""),
                )
                for row in rows
            ],
        ),
    )
    for warning in found.warnings:
        call.say(f"warning: {warning}")
