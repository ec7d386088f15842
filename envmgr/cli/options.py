"""The arguments and options that several commands share, each described once.

Every value is a text or a flag and is checked by envmgr itself: Typer would load a validation library for anything
else, which takes longer than most of these commands run (see `envmgr.cli.app`).
"""

from __future__ import annotations

import math
from typing import Annotated

import typer

from envmgr.errors import UsageError

AsJson = Annotated[bool, typer.Option("--json", help="Answer with one JSON record, errors included.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No words and no progress; errors only.")]
Environment = Annotated[
    str,
    typer.Argument(
        metavar="X", show_default=False, help="A spec's file (with / or ending in .yml, .yaml), a name or an alias."
    ),
]
SpecFile = Annotated[
    str,
    typer.Argument(
        metavar="FILE|-", show_default=False, help="A spec (conda YAML, or a conda-lock.yml); - is standard input."
    ),
]
Timeout = Annotated[
    str | None,
    typer.Option("--timeout", metavar="SECONDS", show_default=False, help="Give up after so long (exit code 8)."),
]


def seconds(text: str | None) -> float | None:
    """Return the value of ``--timeout``; `UsageError` unless it is a positive number."""
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(f"--timeout {text!r} is not a number of seconds", hint="such as 1800 or 0.5")
    return value
