"""The last failure of a name: kept for those who wait for the same build, and for a while for those who come later."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from envmgr import errors
from envmgr.errors import Cancelled, EnvmgrError, Offline, TimedOut
from envmgr.model import Failure
from envmgr.store import records

if TYPE_CHECKING:
    from pathlib import Path

    from envmgr.manager.context import Context
    from envmgr.names import EnvName

_LIKELY_AGAIN = ("unsatisfiable", "policy", "incompatible_host", "build_failed")
_THE_CALLERS_OWN = (TimedOut, Cancelled, Offline)
"""Failures that say something of one caller's call or settings, and nothing of the environment."""

_FIRST_BACK_OFF_S = 10.0
_LONGEST_BACK_OFF_S = 300.0
_LOG_TAIL_BYTES = 64 * 1024


def raise_known(context: Context, name: EnvName, before: Failure | None) -> None:
    """Raise the name's last failure, if it happened while this caller waited or is too fresh to be tried again.

    `before` is what was remembered when the caller came. The two are compared as they are: no clock decides whose
    result a failure is. The error's field ``is_repeated`` says that nothing was tried.
    """
    failure = records.read_failure(context.layout, name)
    if failure is None:
        return
    known = {**failure.to_json(), "fields": {"is_repeated": True}}
    if failure != before:
        raise errors.from_json(known)
    now = context.clock.time()
    if failure.retry_at is not None and failure.at <= now < failure.retry_at:
        hint = f"this is the failure of {now - failure.at:.0f} s ago; create --retry tries again at once"
        raise errors.from_json({**known, "hint": f"{failure.hint}; {hint}" if failure.hint else hint})


def remember(context: Context, name: EnvName, error: BaseException, log: str = "") -> None:
    """Keep a failure, unless it is its caller's own; a store that is full or gone must not hide the error."""
    if not isinstance(error, EnvmgrError) or isinstance(error, _THE_CALLERS_OWN):
        return
    before = records.read_failure(context.layout, name)
    attempts = 1 + (before.attempts if before else 0)
    now = context.clock.time()
    failure = Failure(
        name=name,
        at=now,
        code=error.code,
        message=error.message,
        hint=error.hint,
        log=log,
        attempts=attempts,
        retry_at=now + back_off_s(attempts) if error.code in _LIKELY_AGAIN else None,
    )
    with contextlib.suppress(OSError):
        records.write_failure(context.layout, failure)


def back_off_s(attempts: int) -> float:
    """Return for how long a failure that is likely to come again is everybody's, after so many of them in a row."""
    return float(min(_FIRST_BACK_OFF_S * 2 ** min(attempts - 1, 10), _LONGEST_BACK_OFF_S))


def tail(path: Path) -> str:
    """Return the end of a build's log, at most 64 KiB."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _LOG_TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
