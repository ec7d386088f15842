"""The command that lays out a conda home; it imports what it needs inside itself."""

# ruff: noqa: PLC0415 - the runners' package, where it is needed

from __future__ import annotations

from typing import Annotated

import typer

from envmgr.cli import options
from envmgr.cli.call import Call
from envmgr.errors import UsageError


def install(
    context: typer.Context,
    directory: Annotated[str, typer.Argument(metavar="DIR", show_default=False, help="Such as /opt/envmgr/condahome.")],
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Lay out a directory that programs take for a conda installation.

    MLFLOW_CONDA_HOME=DIR (MLflow, MLSQL, Byzer), RAY_CONDA_HOME=DIR (Ray) or DIR/bin first on PATH: what they create,
    list, activate and remove is then envmgr's, in the store that is the default now. DIR/bin/conda --help lists what
    is answered. Done again it upgrades in place; rm -r DIR removes it, and no environment.
    """
    from pathlib import Path

    from envmgr.runners.condahome import installation

    call = Call(context, is_json=as_json, is_quiet=quiet)
    if not directory:
        raise UsageError("the directory has no name", hint="such as /opt/envmgr/condahome")
    installed = installation.install(Path(directory), Path(call.root), call.say)
    call.say(f"{installed.home} is a conda home of {installed.root}")
    call.answer(installed.to_json())
