"""``envmgr run`` with limits: this process stays above the command, passes signals on, and ends as the command did.

Signals that other processes send here (`FORWARDED`) go to the command. What a terminal sends, the whole foreground
group has got already, the command included. Meanwhile nothing here handles any: the command decides what they mean.

This process is a subreaper: should the supervisor (`envmgr.runners.program.supervisor`) be killed, the orphans come
here, and are ended here; but for children that it had when it became this program (``server & exec envmgr run …``).
Standard input is let go of, and output, too, once the command has them; but for ``--json``, whose record of an error
goes there.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING

from envmgr.client import Environment
from envmgr.runners.program import tree
from envmgr.runners.program.running import Limited

if TYPE_CHECKING:
    from envmgr.cli.call import Call
    from envmgr.events import Event
    from envmgr.ready import Lease
    from envmgr.runners.program.limits import Limits
    from envmgr.runners.program.supervising import Supervised

FORWARDED = frozenset({
    signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2
})  # fmt: skip
_WATCHED = FORWARDED | {signal.SIGCHLD}
_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE_S = 10.0


def run(call: Call, lease: Lease, command: Sequence[str], limits: Limits) -> int:
    """Run a command to its end and return its exit status, or end as it did when a signal ended it.

    Raises what `envmgr.run` does; `OSError` where the command cannot be executed.
    """

    def say(event: Event) -> None:
        call.say(event.message if event.kind == "warning" else f"waiting {event.message}")

    with Limited(Environment(lease), limits, say) as limited:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        signal.signal(
            signal.SIGCHLD, signal.SIG_DFL
        )  # where our parent ignored it, the kernel would not tell of an end
        inherited = tree.below(os.getpid())
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
        program = limited.start(command, blocks=sorted(map(int, before)), inherits_all=True)
        try:
            _let_go(keeps_output=call.is_json)
            _follow(program)
            status = limited.finished().status
        finally:
            if program.was_lost:
                tree.end_all(lambda _pid, _status: None, patience_s=_PATIENCE_S, spared=inherited)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return status if status >= 0 else _end_by(-status)


def _follow(program: Supervised) -> None:
    """Pass signals on until it has ended, with all that it had started."""
    while not program.has_ended:
        info = signal.sigwaitinfo(_WATCHED)
        if info.si_signo in FORWARDED and info.si_code <= 0:  # sent by a process; else by the kernel, to all in front
            program.send(info.si_signo)


def _let_go(*, keeps_output: bool) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(nowhere, 0)
    if not keeps_output:
        os.dup2(nowhere, 1)
    os.close(nowhere)


def _end_by(number: int) -> int:
    """End this process by the signal that ended the command; return a shell's status for it where that does not."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the command has left its own
    if number not in {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return 128 + number
