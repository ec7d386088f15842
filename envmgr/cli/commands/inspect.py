"""Commands that look: list, show, logs, verify, settings, doctor."""

# ruff: noqa: PLC0415 - settings and manager, where they are needed

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from envmgr.cli import options, output, shapes
from envmgr.cli.call import Call
from envmgr.errors import Corrupt, EnvmgrError

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
    from envmgr.manager import inspection

    found = inspection.list_all(call.layout())
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
    manager = call.manager(writable=False)
    info = manager.show(name)
    record = None
    if info.build_id is not None and info.state != "damaged":
        record = manager.record(name, info.build_id)
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
        facts.append(("failure", f"{output.moment(failure.at)} {failure.code}: {failure.message}"))
    facts += [("used by", f"{user} ({user.how})") for user in info.used_by] or [("used by", "-")]
    output.write_facts(facts)


def logs(
    context: typer.Context, x: options.Environment, as_json: options.AsJson = False, quiet: options.Quiet = False
) -> None:
    """Print the log of the build, or of the last failure."""
    call = Call(context, is_json=as_json, is_quiet=quiet)
    name = call.name(x)
    text = call.manager(writable=False).log(name)
    call.answer({"name": name, "log": text}, text)


def verify(
    context: typer.Context, x: options.Environment, as_json: options.AsJson = False, quiet: options.Quiet = False
) -> int:
    """Compare every file with what was installed.

    Prints what differs, and exits with 12 if anything does.
    """
    call = Call(context, is_json=as_json, is_quiet=quiet)
    name = call.name(x)
    damages = call.manager(writable=False).verify(name)
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
    call.say(f"{name} has {output.count(len(damages), 'damage')}; envmgr repair {name} builds it again")
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

    Looked at: file system, locks, disk, clock, channels, cache, foreign things. Makes the store if there is none.
    Exit code 0 without errors (warnings are none), 12 if something in the store is corrupt, else 1.
    """
    call = Call(context, is_json=as_json, is_quiet=quiet)
    findings = call.manager(writable=True).examine(only=only, quarantine=quarantine)
    errors = [finding for finding in findings if finding.status == "error"]
    record = {"root": call.root, "is_fit": not errors, "findings": [finding.to_json() for finding in findings]}
    call.answer(record, lambda: _write_findings(findings))
    if any(finding.check in _CORRUPT_CHECKS for finding in errors):
        return Corrupt.exit_code
    return EnvmgrError.exit_code if errors else 0


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
            [(row.key, output.value(row.value), row.source, row.doc) for row in rows],
        ),
    )
    for warning in found.warnings:
        call.say(f"warning: {warning}")
