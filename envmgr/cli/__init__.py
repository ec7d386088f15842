"""The administrator's commands: the home of Typer and Rich.

`envmgr.cli.app` is the list of commands, `envmgr.cli.process` what surrounds each of them (signals, errors, exit
codes), `envmgr.cli.call` what a command is given. A command reads its words, calls one method of
`envmgr.manager.Manager` and answers once: data on standard output (text, or with ``--json`` one record), words and
progress on standard error.

Start-up is part of the product, since scripts call these commands in loops: a command imports the manager, the
settings and Rich only when it needs them, inside itself. That is the exception to imports at the top, and each module
here that uses it says so.
"""

from envmgr.cli.process import main, run_and_exit

__all__ = ["main", "run_and_exit"]
