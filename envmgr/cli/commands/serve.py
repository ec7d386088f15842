"""The command that is the daemon."""

# ruff: noqa: PLC0415 - the daemon's framework, where it is needed

from __future__ import annotations

from pathlib import Path

import typer

from envmgr.cli.call import Call, Globals


def daemon(context: typer.Context) -> int:
    """Serve the store to every user of this host, until SIGTERM.

    For the store's owner, in the foreground; `envmgr service install` makes a system service of it. SIGHUP rereads the
    settings. Where it listens is said on standard error.
    """
    import faulthandler

    from envmgr import wiring
    from envmgr.daemon import capabilities
    from envmgr.daemon.server import Daemon

    capabilities.keep_to_this_process()
    faulthandler.enable()  # a watchdog's SIGABRT leaves every thread's stack in the journal
    call = Call(context)
    given: Globals = context.obj
    manager = wiring.manager(call.root, writable=True, backend=given.backend)
    for warning in manager.context.settings.warnings:
        call.say(f"warning: {warning}")
    return Daemon(manager, reread=lambda: wiring.settings(Path(call.root))).run()
