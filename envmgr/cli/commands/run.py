"""Commands that go into an environment: run and shell-hook. Neither imports the manager for one that is there."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from envmgr import activation, ready
from envmgr.cli import options, output
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
    """
    call = Call(context, is_json=as_json, is_quiet=quiet)
    timeout_s = options.seconds(timeout)
    if not command:
        raise UsageError("a command is missing", hint="envmgr run X -- python job.py")
    if x == "-":
        raise UsageError("run does not read a spec from standard input, which is the command's", hint="name a file")
    lease = _lease(call, x, timeout_s)
    try:
        environ = activation.apply(activation.of_build(lease.build_dir, lease.name), os.environ)
        lease.bequeath()
        _become(command, environ)
    except (FileNotFoundError, NotADirectoryError):
        return _fail(call, "command_not_found", f"{command[0]}: command not found in {lease.name}", NOT_FOUND)
    except OSError as error:
        return _fail(call, "command_not_executable", f"{command[0]}: {error.strerror}", NOT_EXECUTABLE)
    finally:
        lease.close()


def _lease(call: Call, word: str, timeout_s: float | None) -> Lease:
    """Return the environment of a word, leased; only a file's is made where it is not there."""
    if not is_file(word):
        lease = ready.acquire(call.root, call.name(word))
        if lease is None:
            raise call.not_found(word)
        return lease
    data, _ = call.read(word)
    seen = ready.seen_name(call.root, ready.text_key(data))
    lease = None if seen is None else ready.acquire(call.root, seen)
    if lease is not None:
        return lease
    _, ensured = make.ensure(call, call.document(word), timeout_s=timeout_s)
    return ensured.lease


def _become(command: list[str], environ: dict[str, str]) -> NoReturn:
    """Replace this process by a program that is searched on the environment's PATH."""
    sys.stdout.flush()
    # Python ignores these two, and what is ignored stays ignored in the program that follows.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    if not command[0]:
        raise FileNotFoundError
    os.execvpe(command[0], command, environ)  # noqa: S606 - no shell is the point


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
