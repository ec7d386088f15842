"""The two shapes that everything is answered in: ``{"data": …}`` and ``{"error": …}``; see `envmgr.wire.socket`.

What nobody foresaw becomes an error that names an incident; its traceback is in the daemon's log under that name, and
nothing of it in the answer.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import math
import secrets
from collections.abc import Mapping
from pathlib import Path

from starlette.responses import Response

from envmgr.errors import Busy, EnvmgrError, Unauthenticated
from envmgr.store import opening

JSON_TYPE = "application/json"
_RETRY_AFTER_S = 1
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_log = logging.getLogger(__name__)


class Refusal(EnvmgrError):
    """A refusal of HTTP's own: an error with a status that its class does not have."""

    def __init__(self, status: int, error: EnvmgrError) -> None:
        super().__init__(error.message, hint=error.hint, **error.fields)
        self.status = status
        self.error = error


def data(record: object, status: int = 200) -> Response:
    """Return the answer that a record is."""
    return Response(encode({"data": record}), status, media_type=JSON_TYPE)


def refusal(error: BaseException, headers: Mapping[str, str] | None = None) -> Response:
    """Return the answer that an error is."""
    status, found = judged(error)
    return Response(encode({"error": error_record(found)}), status, {**_headers(found), **(headers or {})}, JSON_TYPE)


def judged(error: BaseException) -> tuple[int, EnvmgrError]:
    """Return the HTTP status and the error of our tree that stand for any error."""
    if isinstance(error, Refusal):
        return error.status, error.error
    if isinstance(error, OSError) and error.errno in _EXHAUSTED:
        error = Busy("the daemon has no descriptor or memory left for this", hint="ask again soon", retry_after_s=5)
    elif isinstance(error, OSError):
        known = opening.translate(error, Path("the store"))
        error = known if isinstance(known, EnvmgrError) else error
    if isinstance(error, EnvmgrError):
        return error.http_status, error
    incident = secrets.token_hex(4)
    _log.error("incident %s", incident, exc_info=error)
    return 500, EnvmgrError(
        "something unexpected happened in the daemon",
        hint=f"its log tells more of incident {incident}",
        incident=incident,
    )


def error_record(error: EnvmgrError) -> Mapping[str, object]:
    """Return an error as it crosses the socket: without what only the process it happened in may see."""
    record = error.to_json()
    return {**record, "fields": {key: value for key, value in error.fields.items() if key != "traceback"}}


def encode(document: object) -> bytes:
    """Return the JSON of a document with records in it; ASCII, so that no file's name can break it."""
    return _JSON.encode(document).encode("ascii")


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


_JSON = json.JSONEncoder(default=_plain, separators=(",", ":"))


def _headers(error: EnvmgrError) -> dict[str, str]:
    if isinstance(error, Busy):
        wait_s = error.fields.get("retry_after_s")
        if not isinstance(wait_s, (int, float)) or not math.isfinite(wait_s):
            wait_s = _RETRY_AFTER_S
        return {"Retry-After": str(max(1, math.ceil(wait_s)))}
    if isinstance(error, Unauthenticated):
        return {"WWW-Authenticate": "Bearer"}
    return {}
