"""The command that tells before a job does that an environment cannot work somewhere: lint."""

# ruff: noqa: PLC0415 - the other commands do without the store's records and the rules

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from envmgr import ready
from envmgr.cli import options
from envmgr.cli.call import Call, is_file
from envmgr.errors import UnsuitableEnvironment, UsageError
from envmgr.events import counted

if TYPE_CHECKING:
    from envmgr.model import Spec
    from envmgr.names import EnvName
    from envmgr.runners.lint import Finding, Known, Site

_MINOR = re.compile(r"3\.\d{1,2}")
_SAID = {"environment": "by its packages", "lockfile": "by its lockfile", "spec": "by the spec's text alone"}


def lint(
    context: typer.Context,
    x: options.Environment,
    systems: Annotated[
        list[str] | None,
        typer.Option(
            "--for",
            metavar="SYSTEM",
            show_default=False,
            help="ray, pyspark, pyjava or mlflow; several with commas.  [required]",
        ),
    ] = None,
    ray: Annotated[
        str | None, typer.Option("--ray", metavar="VERSION", show_default=False, help="The cluster's Ray, as 2.60.0.")
    ] = None,
    python: Annotated[
        str | None, typer.Option("--python", metavar="3.X", show_default=False, help="The cluster's Python, as 3.11.")
    ] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> int:
    """Tell why an environment cannot work with Ray, Spark, MLflow.

    Before a job finds out. Judged by the packages of the build, else of the lockfile, else by the spec's text alone,
    which leaves things open: those are warnings. Prints all that is wrong; exit code 15 if it cannot work, else 0.
    Nothing is built or solved.
    """
    from envmgr.runners import lint as lint_

    call = Call(context, is_json=as_json, is_quiet=quiet)
    wanted = tuple(dict.fromkeys(word for text in systems or () for word in text.replace(",", " ").split()))
    wrong = [word for word in wanted if word not in lint_.SYSTEMS]
    if wrong or not wanted:
        message = f"--for: {wrong[0]!r} is no system" if wrong else "--for is missing"
        raise UsageError(message, hint=f"some of {', '.join(lint_.SYSTEMS)}")
    site = _site(ray, python)
    name, known = _known(call, x)
    findings = lint_.lint(known, wanted, site)
    is_suitable = all(finding.level != "error" for finding in findings)
    call.answer(
        {
            "name": name,
            "judged_by": known.source,
            "systems": list(wanted),
            "python": site.python,
            "ray": site.ray,
            "is_suitable": is_suitable,
            "findings": [finding.to_json() for finding in findings],
        },
        "".join(_line(finding, len(wanted) > 1) for finding in findings),
    )
    errors = sum(finding.level == "error" for finding in findings)
    words = f"{counted(errors, 'error')}, {counted(len(findings) - errors, 'warning')}" if findings else "nothing found"
    call.say(f"{x} for {', '.join(wanted)}, {_SAID[known.source]}: {words}")
    return 0 if is_suitable else UnsuitableEnvironment.exit_code


def _line(finding: Finding, has_systems: bool) -> str:
    systems = f"{', '.join(finding.systems)}: " if has_systems else ""
    return f"{finding.level}: {systems}{finding.message} ({finding.hint})\n"


def _site(ray: str | None, python: str | None) -> Site:
    from envmgr.runners.lint import Site

    if ray is not None and not re.fullmatch(r"\d+(\.\d+)+[.\w]*", ray):
        raise UsageError(f"--ray {ray!r} is no version", hint="such as 2.60.0")
    if python is None:
        return Site(None, ray)
    minor = re.match(_MINOR, python)
    if minor is None:
        raise UsageError(f"--python {python!r} is no version of Python 3", hint="such as 3.11")
    return Site(minor[0], ray)


def _known(call: Call, word: str) -> tuple[EnvName, Known]:
    """Return the name of a word, and the most certain that is known of it; `EnvironmentNotFound` if that is nothing."""
    from envmgr.runners import installed
    from envmgr.runners.lint import packages

    document = call.document(word).spec if is_file(word) else None
    name = call.name(word) if document is None else document.name
    lease = ready.acquire(call.root, name)
    if lease is not None:
        try:
            return name, packages.of_installed(installed.of_prefix(Path(lease.prefix)))
        finally:
            lease.close()
    locked = _lockfile(call, name, document)
    if locked is not None:
        return name, locked
    if document is None:
        raise call.not_found(word)
    return name, packages.of_spec(document)


def _lockfile(call: Call, name: EnvName, document: Spec | None) -> Known | None:
    """Return what the lockfile in force says, or the document that is one."""
    from envmgr import lockfile
    from envmgr.runners.lint import packages
    from envmgr.settings import machine
    from envmgr.store import records

    subdir = machine.subdir()
    text = document.source_text if document is not None and document.is_lockfile else None
    if text is None and call.has_store():
        text = records.read_lockfile(call.layout(), name, subdir)
    return None if text is None else packages.of_lockfile(lockfile.parse(text, subdir))
