"""What surrounds every command: signals, errors, exit codes; the whole life of an ``envmgr`` process.

* SIGINT, SIGTERM and SIGHUP raise in the main thread, so that whatever is being built is taken down and leases are
  given back on the way out (exit codes 130, 143, 129). From then on, further ones are ignored.
* An error is one paragraph on standard error and, with ``--json``, one record on standard output instead.
* A reader of standard output that went away (``envmgr list | head -1``) ends the process silently, with the exit code
  that a shell gives for SIGPIPE.

``--json`` counts for what Typer itself refuses, too, so it is looked for before Typer reads the words.
"""

# ruff: noqa: PLC0415 - only on the way to an error

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import typer

from envmgr.cli import output, shapes
from envmgr.cli.app import command
from envmgr.cli.call import Globals
from envmgr.cli.groups import TyperUsageError
from envmgr.errors import Cancelled, EnvmgrError, UsageError
from envmgr.interruption import Interrupted, signals_raise

if TYPE_CHECKING:
    from envmgr.ports import Backend

_SIGPIPE_EXIT_CODE = 128 + signal.SIGPIPE


def run_and_exit(*, backend: Backend | None = None) -> NoReturn:
    """Be the program: run the command of `sys.argv` (see `main`), and end this process with its exit code.

    What is registered with `atexit` runs; but where no thread is left to be waited for, the interpreter is not taken
    apart piece by piece, which takes as long as to start one.
    """
    code = main(backend=backend)
    if threading.active_count() == 1:
        atexit._run_exitfuncs()  # noqa: SLF001 - there is no other name for it
        _settle_output()
        os._exit(code)
    sys.exit(code)


def main(arguments: Sequence[str] | None = None, *, backend: Backend | None = None) -> int:
    """Run one command and return its exit code.

    `backend` replaces what builds environments, for programs that bring their own.
    """
    _open_closed_streams()
    words = list(sys.argv[1:] if arguments is None else arguments)
    given = Globals(backend=backend)
    is_json = "--json" in words[: words.index("--")] if "--" in words else "--json" in words
    with signals_raise():
        try:
            return _run(words, given)
        except BaseException as error:  # noqa: BLE001 - the one place where every error becomes an exit code
            return _fail(error, given, is_json=is_json)
        finally:
            _settle_output()


def _run(words: list[str], given: Globals) -> int:
    if hasattr(sys.stdout, "reconfigure"):
        # Lockfiles and paths are bytes to whoever reads them; the locale has no say.
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        with command().make_context("envmgr", words, obj=given) as context:
            return command().invoke(context) or 0
    except typer.Exit as end:
        return end.exit_code


def _fail(error: BaseException, given: Globals, *, is_json: bool) -> int:
    """Say what went wrong and return the exit code."""
    if isinstance(error, BrokenPipeError) and _is_output_gone():
        return _SIGPIPE_EXIT_CODE
    found = translated(error)
    if given.is_debug:
        import traceback

        output.say("".join(traceback.format_exception(error)))
    if is_json:
        with contextlib.suppress(BrokenPipeError, EnvmgrError):
            output.write_record(shapes.error(found))
    else:
        output.say(output.error_text(found))
    return 128 + error.number if isinstance(error, Interrupted) else found.exit_code


def translated(error: BaseException) -> EnvmgrError:
    """Return the error of envmgr's own tree that stands for any other."""
    if isinstance(error, EnvmgrError):
        return error
    if isinstance(error, KeyboardInterrupt):
        number = error.number if isinstance(error, Interrupted) else signal.SIGINT
        return Cancelled(f"ended by {signal.Signals(number).name}", signal=signal.Signals(number).name)
    if isinstance(error, TyperUsageError):
        context = error.ctx
        where = "envmgr" if context is None else context.command_path
        hint = f"{where} --help"
        if where != "envmgr" and "--root" in str(error.message):
            hint = f"--root stands before the command: envmgr --root DIR {where.removeprefix('envmgr ')}"
        elif where == "envmgr run":
            hint += "; the command's own options stand behind --"
        return UsageError(error.format_message().replace("\n\t", " "), hint=hint)
    if isinstance(error, OSError):
        from pathlib import Path

        from envmgr.store import opening

        known = opening.translate(error, Path(str(error.filename or "the store")))
        if isinstance(known, EnvmgrError):
            return known
    import traceback

    return EnvmgrError(
        f"unexpected {type(error).__name__}: {error}",
        hint="this is a defect of envmgr; envmgr --debug … shows where it happened",
        traceback=traceback.format_exception(error),
    )


def _open_closed_streams() -> None:
    """Give a process that was started with a closed output (``>&-``) one that goes nowhere."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the life of the process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115


def _is_output_gone() -> bool:
    """Tell whether standard output is a pipe or socket that nobody reads any more."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, ValueError):
        return False


def _settle_output() -> None:
    """Let what could not be written go nowhere: Python would try once more at its end, and exit with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                devnull = os.open(os.devnull, os.O_WRONLY)
                os.dup2(devnull, stream.fileno())
                os.close(devnull)
