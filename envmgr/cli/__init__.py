"""The administrator's commands: the home of Typer and Rich.

`envmgr.cli.app` is the list of commands, `envmgr.cli.process` what surrounds each of them (signals, errors, exit
codes), `envmgr.cli.call` what a command is given. A command reads its words, calls one method of
`envmgr.manager.Manager` and answers once: data on standard output (text, or with ``--json`` one record), words and
progress on standard error.

Start-up is part of the product, since scripts call these commands in loops: a command imports the manager, the
settings and Rich only when it needs them, inside itself. That is the exception to imports at the top, and each module
here that uses it says so. ``run`` starts jobs: what is ready it executes without even Typer (`envmgr.cli.straight`),
so nothing is imported here.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from envmgr.ports import Backend

__all__ = ["main", "run_and_exit"]


def run_and_exit(*, backend: "Backend | None" = None) -> "NoReturn":
    """Be the program: run the command of `sys.argv`, and end this process with its exit code; `backend`: see `main`."""
    if sys.argv[1:2] == ["run"]:
        from envmgr.cli import straight  # noqa: PLC0415

        straight.run(sys.argv[2:])
    from envmgr.cli import process  # noqa: PLC0415

    process.run_and_exit(backend=backend)


def main(arguments: "Sequence[str] | None" = None, *, backend: "Backend | None" = None) -> int:
    """Run one command and return its exit code.

    `backend` replaces what builds environments, for programs that bring their own.
    """
    from envmgr.cli import process  # noqa: PLC0415

    return process.main(arguments, backend=backend)
