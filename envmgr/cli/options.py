"""The arguments and options that several commands share, each described once.

Every value is a text or a flag and is checked by envmgr itself: Typer would load a validation library for anything
else, which takes longer than most of these commands run (see `envmgr.cli.app`).
"""

# ruff: noqa: PLC0415 - what limits need is imported for who asks for them

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from envmgr.errors import UsageError

if TYPE_CHECKING:
    from envmgr.runners.program.limits import Limits
    from envmgr.settings.kinds import Kind

T = TypeVar("T")

_LEAST_MEMORY_BYTES = 1 << 20

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
NewAlias = Annotated[str, typer.Argument(metavar="ALIAS", show_default=False, help="A name of your own.")]
Alias = Annotated[str, typer.Argument(metavar="ALIAS", show_default=False)]
Move = Annotated[bool, typer.Option("--move", help="Take it from the environment that has it.")]
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


def value(option: str, text: str | None, kind: Kind[T]) -> T | None:
    """Return the value of an option that is written like a setting; `UsageError` where it is not."""
    try:
        return None if text is None else kind.from_text(text)
    except ValueError:
        raise UsageError(f"{option} {text!r} is wrong", hint=f"expected {kind.name}") from None


def limits(
    *, memory: str | None, cores: str | None, wall: str | None, instances: str | None, wait: str | None
) -> Limits | None:
    """Return what limits a command, or ``None`` where nothing does."""
    if (memory, cores, wall, instances, wait) == (None,) * 5:
        return None
    from envmgr.runners.program.limits import Limits
    from envmgr.settings import kinds

    if wait is not None and instances is None:
        raise UsageError("--wait is for a place among --instances", hint="envmgr run X --instances 3 --wait 30s -- …")
    some = kinds.integer(1, 1 << 20)
    memory_bytes = value("--memory", memory, kinds.SIZE)
    if memory_bytes and memory_bytes < _LEAST_MEMORY_BYTES:  # a unit was forgotten
        raise UsageError(f"--memory {memory!r} is less than a program can start with", hint="with a unit, such as 2GiB")
    return Limits(
        memory_bytes=memory_bytes,
        cores=value("--cores", cores, some),
        wall_s=value("--wall", wall, kinds.DURATION),
        instances=value("--instances", instances, some),
        wait_s=value("--wait", wait, kinds.DURATION) or 0.0,
    )
