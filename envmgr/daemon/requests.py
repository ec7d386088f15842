"""From a request's body to its record: JSON only, no unknown keys, no conversions, at most `BODY_BYTES`.

A body with far more keys and values than any record has is not parsed: with 16 MB of them, the parser and its list of
problems would hold the event loop for seconds, and over a gigabyte.

A route may allow an administrator more bytes. Too large a body is read on (up to `DROPPED_BYTES`) and dropped, so
that a client that sends before it listens gets its answer.
"""

from __future__ import annotations

import functools
from typing import Any, Generic, TypeVar

import pydantic.dataclasses
from pydantic import ConfigDict, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.types import Receive

from envmgr.daemon.protocol import Connection, connection_of
from envmgr.daemon.responses import JSON_TYPE, Refusal
from envmgr.errors import Cancelled, UsageError

T = TypeVar("T")

BODY_BYTES = 16 << 20
DROPPED_BYTES = 64 << 20
_MOST_PROBLEMS = 50
_SMALL_BYTES = 1 << 16
_MOST_VALUES = 4096
_JSON_TYPE = JSON_TYPE.encode()
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Reader(Generic[T]):
    """Reads the bodies that are one kind of record."""

    def __init__(self, record: type[T]) -> None:
        self.record = record

    @functools.cached_property
    def adapter(self) -> TypeAdapter[T]:
        strict: Any = pydantic.dataclasses.dataclass(self.record, frozen=True, kw_only=True, config=_STRICT)
        return TypeAdapter(strict)

    async def read(self, request: Request, *, most_bytes: int = BODY_BYTES) -> T:
        """Return the record in the body, or raise a `Refusal` that names every problem."""
        headers = dict(request.scope["headers"])
        kind = headers.get(b"content-type", _JSON_TYPE)
        if kind.partition(b";")[0].strip().lower() != _JSON_TYPE:
            raise Refusal(415, UsageError(f"the body is not {JSON_TYPE}", header="Content-Type"))
        if headers.get(b"expect") and int(headers.get(b"content-length", 0)) > most_bytes:
            raise _too_large(most_bytes)  # the client waits for leave to send it
        body = await _body(request.receive, connection_of(request.scope), most_bytes)
        if len(body) > _SMALL_BYTES:
            _check_shape(body)
        try:
            return self.adapter.validate_json(body)
        except ValidationError as error:
            raise _refusal(error) from None


async def _body(receive: Receive, connection: Connection, most_bytes: int) -> bytes:
    received = 0
    blocks: list[bytes] = []
    is_more = True
    while is_more and received <= max(DROPPED_BYTES, most_bytes):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Cancelled("the client went away before its request was whole")
        received += len(message["body"])
        if received > _SMALL_BYTES:
            await connection.begin_large()
        if received > most_bytes:
            blocks.clear()
        else:
            blocks.append(message["body"])
        is_more = message["more_body"]
    if received > most_bytes:
        raise _too_large(most_bytes)
    return b"".join(blocks)


def _check_shape(body: bytes) -> None:
    """Refuse a body that is more than some long strings; what it costs is looking through it a few times."""
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")  # then each quote begins or ends a string
    if plain.count(b'"') > 4 * _MOST_VALUES or b"".join(plain.split(b'"')[::2]).count(b",") > _MOST_VALUES:
        raise Refusal(422, UsageError("the body has far more keys and values than any request has"))


def _too_large(most_bytes: int) -> Refusal:
    return Refusal(413, UsageError(f"the body has over {most_bytes} bytes", limit_bytes=most_bytes))


def _refusal(error: ValidationError) -> Refusal:
    """Return what is wrong with a body; none of its values is repeated."""
    found: list[Any] = error.errors(include_url=False, include_input=False, include_context=False)
    if found[0]["type"] == "json_invalid":
        return Refusal(400, UsageError("the body is not JSON", problems=[{"where": "", "message": found[0]["msg"]}]))
    problems = [{"where": _where(problem["loc"]), "message": _message(problem)} for problem in found[:_MOST_PROBLEMS]]
    first = problems[0]
    text = f"{first['where']}: {first['message']}" if first["where"] else first["message"]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return Refusal(422, UsageError(f"the body does not fit: {text}{more}", problems=problems))


def _where(place: tuple[object, ...]) -> str:
    return ".".join(map(str, place))[:200]


def _message(problem: Any) -> str:
    if problem["type"] == "unexpected_keyword_argument":
        return "no such key"
    return str(problem["msg"])
