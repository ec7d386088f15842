"""What ``/openapi.json`` says of each route, beside what FastAPI finds out: bodies, answers, and every refusal.

A refusal that can come is listed with its status; nothing is summed up as "default".
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import fastapi
import pydantic
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from envmgr import errors
from envmgr.daemon.requests import Reader
from envmgr.version import __version__
from envmgr.wire import socket as wire

_COMPONENTS = "#/components/schemas/{model}"

ALWAYS: Mapping[int, str] = {
    400: "The request makes no sense.",
    401: "Over TCP: the token is missing or wrong.",
    403: "The caller may not, or a setting does not allow it; `fields` names the rule.",
    408: "The request did not arrive in time.",
    429: "Too much at once; `Retry-After` says when to ask again.",
    431: "The request's head is too large.",
    500: "Unexpected, or something in the store is damaged.",
    503: "The daemon stops, or something that it needs is not there.",
    504: "It took too long.",
}
FOUND: Mapping[int, str] = {404: "There is no such thing.", 422: "A parameter has a wrong value."}
BODY: Mapping[int, str] = {
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "The body does not fit, or the spec in it is not valid.",
}
_LIKE_EARLIER = "An earlier build's failure, or an error that README's table lists with this status."
CHANGE: Mapping[int, str] = dict.fromkeys(sorted({cls.http_status for cls in errors.TABLE.values()}), _LIKE_EARLIER)

_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "required": True, "schema": {"type": "integer"}}}

_TEXTS: Mapping[str, Mapping[str, Any]] = {
    "text/event-stream": {
        "type": "object",
        "description": "One event; see the data of `progress` and `lost` in envmgr's own documentation.",
        "required": ["id", "event", "data"],
        "properties": {
            "id": {"type": "string", "pattern": "^[0-9]+$"},
            "event": {"enum": ["progress", "state", "end", "lost"]},
            "data": {"type": "string", "contentMediaType": "application/json"},
        },
    }
}


@functools.cache
def _shape(key: str, record: object) -> type[pydantic.BaseModel]:
    """Return the model of an answer with its one key."""
    name = getattr(record, "__name__", "Record")
    return pydantic.create_model(f"{name}{key.capitalize()}", **{key: (record, ...)})  # type: ignore[call-overload,no-any-return]  # names of fields are values here


def answers(good: Mapping[int, Any], refusals: Sequence[Mapping[int, str]]) -> dict[int | str, dict[str, Any]]:
    """Return FastAPI's ``responses``: `good` answers by status (a record or a content type), and the refusals."""
    documented: dict[int | str, dict[str, Any]] = {}
    for words in (*reversed(refusals), ALWAYS):
        for status, text in words.items():
            documented[status] = {"model": _shape("error", wire.Error), "description": text}
    documented[429]["headers"] = _RETRY_AFTER
    for status, answer in good.items():
        if isinstance(answer, str):
            schema = _TEXTS.get(answer, {"type": "string"})
            documented[status] = {"description": "The text.", "content": {answer: {"schema": schema}}}
        else:
            documented[status] = {"model": _shape("data", answer), "description": _summary(answer)}
    return documented


def body(reader: Reader[Any]) -> dict[str, Any]:
    """Return the part of an operation that describes its body."""
    schema = {"$ref": _COMPONENTS.format(model=reader.record.__name__)}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def document(app: fastapi.FastAPI, readers: Sequence[Reader[Any]]) -> dict[str, Any]:
    """Return the whole document."""
    made = get_openapi(
        title="envmgr", version=__version__, routes=app.routes, summary="conda environments of this host",
        description=(
            "Every answer is `{\"data\": …}` or `{\"error\": …}`; keys are always all present. On the host's socket "
            "the kernel says who asks; over TCP a token does."
        ),
    )  # fmt: skip
    _, schemas = TypeAdapter.json_schemas(
        [(reader.record.__name__, "validation", reader.adapter) for reader in readers], ref_template=_COMPONENTS
    )
    components = made.setdefault("components", {})
    components.setdefault("schemas", {}).update(schemas["$defs"])
    for unused in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(unused, None)
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    made["security"] = [{}, {"token": []}]
    return made


def _summary(record: Any) -> str:
    return str(record.__doc__ or record.__name__).partition("\n")[0]
