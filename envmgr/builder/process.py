"""The builder as a process: how it begins, what it tells its parent, and how it ends.

It begins by tying its life to its parent's (PDEATHSIG) and making itself the new parent of all orphans below it
(subreaper). After its answer it stays until its parent ends it, because those orphans are to be found through it only
while it lives; where nobody listens any more it ends with `os._exit`, because rattler's threads may crash an
interpreter that ends in the usual way. Between the two every exception becomes the one ``error`` line of
`envmgr.wire.pipe`; the traceback of one that nobody foresaw goes to the log only.

Source: prctl(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from envmgr import fsio
from envmgr.builder import deferred_sync
from envmgr.errors import EnvmgrError, NoSpace
from envmgr.events import Event
from envmgr.settings.redact import redact
from envmgr.wire import pipe as wire
from envmgr.wire.pipe import BuildRequest

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_SPAWNER_ONLY = ("LD_LIBRARY_PATH", "ENVMGR_BUILDER_PATH")


def main(arguments: Sequence[str]) -> NoReturn:
    """Be a builder: read the request from standard input, do it, answer, and end."""
    events_fd, lease_fd, parent = map(int, arguments)
    _tie_to(parent)
    _be_nobodys_heir()
    deferred_sync.defer()
    os.set_inheritable(events_fd, False)
    os.set_inheritable(lease_fd, False)  # tools get it by name
    pipe = Pipe(events_fd)
    status = 1
    try:
        request = _read_request()
        os.nice(request.nice)
        scratch = Path(request.build_dir, "tmp")
        scratch.mkdir(exist_ok=True)
        from envmgr.builder.stages import run  # noqa: PLC0415 - rattler: only once the process is armed

        result = run(request, lease_fd=lease_fd, report=pipe.event, on_locked=pipe.locked)
        shutil.rmtree(scratch, ignore_errors=True)
        _flush()
        pipe.answer({"result": json.loads(wire.dump(result))})
        status = 0
    except BrokenPipeError:
        pass  # nobody listens any more
    except BaseException as error:  # noqa: BLE001 - the one answer, whatever happened
        _flush()
        pipe.answer({"error": _as_ours(error).to_json()})
    finally:
        _flush()
        pipe.wait_for_its_end()
        os._exit(status)


def _tie_to(parent: int) -> None:
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() != parent:
        os._exit(1)  # it died before we were tied to it: nobody would ever kill us


def _be_nobodys_heir() -> None:
    """Drop what was inherited: signal mask and dispositions, umask, the variables that only the start needed."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.umask(0o022)
    for variable in _SPAWNER_ONLY:
        os.environ.pop(variable, None)


def _read_request() -> BuildRequest:
    document = json.load(sys.stdin)
    if document.get("version") != wire.VERSION:
        raise EnvmgrError(
            f"the request is of version {document.get('version')} of the protocol, the builder of {wire.VERSION}",
            hint="envmgr was replaced while it ran; start the program again",
        )
    return wire.load(BuildRequest, document)


def _as_ours(error: BaseException) -> EnvmgrError:
    if isinstance(error, EnvmgrError):
        return error
    print(redact("".join(traceback.format_exception(error))), file=sys.stderr)  # noqa: T201 - the log
    if isinstance(error, OSError) and error.errno in fsio.OUT_OF_SPACE:
        return NoSpace(f"no space left: {error.filename or error}", hint="`envmgr gc` frees what is not in use")
    return EnvmgrError(
        f"the builder failed in a way that nobody foresaw ({type(error).__name__})", hint="the build's log says more"
    )


def _flush() -> None:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        pass  # the log's disk is full; the answer matters more


class Pipe:
    """The way to the parent; any thread may use it. Everything that is for people goes into the log, too."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    def event(self, event: Event) -> None:
        """Tell of progress."""
        if event.kind != "progress" and (event.message or event.kind in {"begin", "end"}):
            self._log(event)
        self.answer({"event": event.to_json()})

    def locked(self, text: str) -> None:
        """Hand over the complete lockfile."""
        self.answer({"locked": text})

    def answer(self, document: dict[str, object]) -> None:
        """Write one line."""
        view = memoryview(json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        with self._lock:
            while view:
                view = view[os.write(self._fd, view) :]

    def wait_for_its_end(self) -> None:
        """Return when nobody listens any more."""
        poll = select.poll()
        poll.register(self._fd, 0)  # POLLERR is always told
        poll.poll()

    @staticmethod
    def _log(event: Event) -> None:
        stamp = time.strftime("%H:%M:%S", time.gmtime())
        mark = "" if event.kind == "log" else f"{event.kind}: "
        with contextlib.suppress(OSError):  # the log's disk is full
            print(f"{stamp} {event.phase}: {mark}{event.message}".rstrip(), file=sys.stderr, flush=True)  # noqa: T201
