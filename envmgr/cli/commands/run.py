"""Commands that go into an environment: run and shell-hook. Neither imports the manager for one that is there."""

# ruff: noqa: PLC0415 - limits cost what other runs do not owe

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from envmgr import activation, ready
from envmgr.cli import options, output, straight
from envmgr.cli.call import Call, is_file
from envmgr.cli.commands import make
from envmgr.errors import UsageError
from envmgr.runners import shell

if TYPE_CHECKING:
    from envmgr.ready import Lease

NOT_FOUND = 127
NOT_EXECUTABLE = 126


def run(
    context: typer.Context,
    x: options.Environment,
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- COMMAND", show_default=False, help="The program, then its arguments."),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(metavar="2GiB", show_default=False, help="What it may use of memory, with all that it starts."),
    ] = None,
    cores: Annotated[
        str | None, typer.Option(metavar="N", show_default=False, help="How many CPUs it may use at a time.")
    ] = None,
    wall: Annotated[str | None, typer.Option(metavar="1h", show_default=False, help="How long it may run.")] = None,
    instances: Annotated[
        str | None,
        typer.Option(metavar="N", show_default=False, help="How many may run in the environment on this host."),
    ] = None,
    wait: Annotated[
        str | None,
        typer.Option(metavar="30s", show_default=False, help="How long to wait for a place among the instances."),
    ] = None,
    timeout: options.Timeout = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Errors as one JSON record; standard output is the command's.")
    ] = False,
    quiet: options.Quiet = False,
) -> int:
    """Run a command inside an environment.

    X may be a file, whose environment is made first if need be; a name or an alias must be there. The command
    replaces this process and holds the environment's lease; the exit code is its own, or 127 if it cannot be found
    and 126 if it cannot be executed. No shell is involved.

    With a limit, this process stays above the command and passes signals on; nothing that the command started is left
    after it. Over a limit, the command is ended, and the exit code is 16; without a free place it is 9.
    """
    call = Call(context, is_json=as_json, is_quiet=quiet)
    timeout_s = options.seconds(timeout)
    if not command:
        raise UsageError("a command is missing", hint="envmgr run X -- python job.py")
    if x == "-":
        raise UsageError("run does not read a spec from standard input, which is the command's", hint="name a file")
    limits = options.limits(memory=memory, cores=cores, wall=wall, instances=instances, wait=wait)
    lease = _lease(call, x, timeout_s)
    try:
        if limits is not None:
            from envmgr.cli import limited

            return limited.run(call, lease, command, limits)
        sys.stdout.flush()
        straight.become(command, lease)
    except (FileNotFoundError, NotADirectoryError):
        return _fail(call, "command_not_found", f"{command[0]}: command not found in {lease.name}", NOT_FOUND)
    except OSError as error:
        return _fail(call, "command_not_executable", f"{command[0]}: {error.strerror}", NOT_EXECUTABLE)
    finally:
        lease.close()


def _lease(call: Call, word: str, timeout_s: float | None) -> Lease:
    """Return the environment of a word, leased; only a file's is made where it is not there."""
    lease = straight.find(call.root, word)
    if lease is not None:
        return lease
    if not is_file(word):
        raise call.not_found(word)
    _, ensured = make.ensure(call, call.document(word), timeout_s=timeout_s)
    return ensured.lease


def _fail(call: Call, code: str, message: str, exit_code: int) -> int:
    if call.is_json:
        output.write_record(
            {"error": {"code": code, "message": message, "hint": None, "is_transient": False, "fields": {}}}
        )
    else:
        output.say(f"envmgr: {message}")
    return exit_code


def shell_hook(
    context: typer.Context, x: options.Environment, as_json: options.AsJson = False, quiet: options.Quiet = False
) -> None:
    """Print text that activates an environment.

    eval "$(envmgr shell-hook X)" in sh, dash, bash, ksh and zsh. The text prints nothing and never builds. The
    shell holds the environment's lease until it ends, where the flock program is installed.
    """
    call = Call(context, is_json=as_json, is_quiet=quiet)
    lease = ready.acquire(call.root, call.name(x))
    if lease is None:
        raise call.not_found(x)
    try:
        script = shell.lease_script(lease.build_id, ready.lease_path(lease.root, lease.build_id))
        script += activation.script(activation.of_build(lease.build_dir, lease.name))
        record = {
            "name": lease.name,
            "path": lease.path,
            "prefix": lease.prefix,
            "build_id": lease.build_id,
            "script": script,
        }
        call.answer(record, script)
    finally:
        lease.close()
