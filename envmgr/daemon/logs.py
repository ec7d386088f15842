"""What the daemon tells the journal: one line for each operation and each change, on standard error.

A line is ``key=value`` words, or with the setting ``log_format`` a JSON object; both ASCII, so that nothing which a
caller wrote ends a line or steers a terminal. Of the text, a key without a value (or with an empty one) is left out; of
JSON, the keys of `CHANGE_KEYS` are always there. Where standard error is the journal (``JOURNAL_STREAM`` names it), a
line begins with its priority (``<6>``), which the journal takes off; the time is the journal's then, except in JSON.

``event=change`` is both the operation's canonical line and the audit: who (user or token, uid, pid, role), what, which
environment, what came of it and how long it took; refusals, too. ``event=log`` is what libraries say through `logging`
and what `warnings` tells; the rest are the daemon's own (``started``, ``stopping``, …).

Credentials in any value are replaced (`envmgr.settings.redact`), before quoting could hide them from it.

Not promised: that a line arrives. What cannot be written (a full disk, nobody who reads) is dropped, since no log is
no reason to stop; but a reader who keeps the pipe open and reads nothing stops whoever writes, as it does everywhere.

Source: sd-daemon(3), systemd.exec(5) on JOURNAL_STREAM, logfmt.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from envmgr.model import Caller
from envmgr.ports import Clock
from envmgr.settings.redact import redact
from envmgr.settings.schema import LogFormat

Level = Literal["error", "warning", "notice", "info"]

CHANGE_KEYS = (
    "what", "name", "build_id", "outcome", "code", "duration_s", "user", "uid", "pid", "role", "phases_s",
    "downloaded_bytes", "size_bytes", "waiters",
)  # fmt: skip
"""The keys of a change, in their order; other facts follow them."""

_PRIORITIES: Mapping[Level, int] = {"error": 3, "warning": 4, "notice": 5, "info": 6}
_LEVELS: Mapping[str, Level] = {"failed": "warning", "refused": "notice", "cancelled": "notice"}
_STDERR = 2
_LONGEST_VALUE = 4000
"""Characters; the journal cuts a line at 48 KiB (LineMax)."""
_PLAIN = re.compile(r"[\w./:@+,%*#~-]+", re.ASCII)


class Log:
    """Writes lines to one descriptor, each whole, from any thread. `log_format` may change while it is used."""

    def __init__(self, log_format: LogFormat, *, host: str, clock: Clock, fd: int = _STDERR) -> None:
        self.log_format = log_format
        self._host = host
        self._clock = clock
        self._fd = fd
        self._is_journal = is_journal(fd)
        self._lock = threading.Lock()

    def changed(
        self, caller: Caller, what: str, name: str | None, outcome: str, duration_s: float, **facts: object
    ) -> None:
        """Write the line of one change, or of its refusal."""
        known = {
            "what": what,
            "name": name,
            "outcome": outcome,
            "duration_s": duration_s,
            "user": caller.user,
            "uid": caller.uid,
            "pid": caller.pid,
            "role": caller.role,
            **facts,
        }
        ordered = {key: known.pop(key, None) for key in CHANGE_KEYS}
        self.event("change", _LEVELS.get(outcome, "info"), **ordered, **known)

    def event(self, kind: str, /, level: Level = "info", **facts: object) -> None:
        """Write one line."""
        line: dict[str, object] = {"event": kind, "host": self._host, "level": level}
        line.update((key, _clean(value)) for key, value in facts.items())
        is_json = self.log_format == "json"
        if is_json or not self._is_journal:
            line = {"time": _moment(self._clock.time()), **line}
        text = json.dumps(line, separators=(",", ":")) if is_json else _words(line)
        prefix = f"<{_PRIORITIES[level]}>" if self._is_journal else ""
        with self._lock:
            _write(self._fd, f"{prefix}{text}\n".encode("ascii"))

    @contextlib.contextmanager
    def capturing(self) -> Iterator[None]:
        """Write what `logging`, `warnings` and threads that end with an exception say, for the length of the block.

        This is the process's, so it is for whoever owns the process. Access logs are left out.
        """
        root, access = logging.getLogger(), logging.getLogger("uvicorn.access")
        before, hook, handler = root.level, threading.excepthook, _Handler(self)
        propagated, access.propagate = access.propagate, False
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        logging.captureWarnings(True)
        threading.excepthook = self._thread_ended
        try:
            yield
        finally:
            threading.excepthook = hook
            logging.captureWarnings(False)
            root.setLevel(before)
            root.removeHandler(handler)
            access.propagate = propagated

    def _thread_ended(self, end: threading.ExceptHookArgs) -> None:
        if end.exc_type is not SystemExit:
            text = _tail(traceback.format_exception(end.exc_type, end.exc_value, end.exc_traceback))
            name = None if end.thread is None else end.thread.name
            self.event("log", "error", logger="threading", message=f"thread {name} ended", traceback=text)


class _Handler(logging.Handler):
    """Hands what `logging` gets to the log."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        level: Level = "info"
        if record.levelno >= logging.WARNING:
            level = "error" if record.levelno >= logging.ERROR else "warning"
        text = _tail(traceback.format_exception(*record.exc_info)) if record.exc_info else None
        self._log.event("log", level, logger=record.name, message=record.getMessage(), traceback=text)


def is_journal(fd: int) -> bool:
    """Tell whether a descriptor is the connection to the journal that the service manager made."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _clean(value: object) -> object:
    """Return a fact as JSON knows it, without credentials and not too long."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {redact(str(key)): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_clean(item) for item in value]
    # Cut before, too: looking for credentials takes time that grows with the square of what a caller may choose.
    text = redact(str(value)[: 2 * _LONGEST_VALUE])
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def _tail(trace: Iterable[str]) -> str:
    """Return the end of a traceback, where the error is."""
    return "".join(trace)[-_LONGEST_VALUE:]


def _words(line: Mapping[str, object]) -> str:
    return " ".join(f"{key}={_word(value)}" for key, value in line.items() if value not in (None, {}, []))


def _word(value: object) -> str:
    """Return a cleaned value as one word: as it is, else as a JSON text."""
    if isinstance(value, dict):
        value = ",".join(f"{key}:{item}" for key, item in value.items())
    elif isinstance(value, list):
        value = ",".join(map(str, value))
    elif isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


def _moment(at: float) -> str:
    whole = int(at)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{int((at - whole) * 1000):03d}Z"


def _write(fd: int, data: bytes) -> None:
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(fd, data) :]
