"""The server-sent events of an operation, as records with their numbers.

Events are for eyes, but for the last one: ``end`` brings the result. A stream that ends without it was broken off.

Source: the HTML standard, section "Server-sent events".
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from envmgr.remote.connection import Connection


@dataclass(frozen=True, slots=True)
class Entry:
    """One event: its number, what it is (``progress``, ``state``, ``end``, ``lost``) and its data."""

    id: int
    kind: str
    data: dict[str, Any]


def read(connection: Connection, target: str, last_id: int) -> Iterator[Entry]:
    """Yield the events behind number `last_id` as they come, until the stream ends."""
    headers = {"Last-Event-ID": str(last_id)} if last_id else {}
    return parse(connection.stream(target, headers), last_id)


def parse(blocks: Iterable[bytes], last_id: int = 0) -> Iterator[Entry]:
    """Yield the events of a stream that comes in blocks of any size; what has no JSON object as its data is left out.

    One without a number of its own has the number of the one before.
    """
    kind = ""
    data: list[str] = []
    for line in _lines(blocks):
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            entry = _entry(last_id, kind, data)
            kind, data = "", []
            if entry is not None:
                yield entry
        elif field == "id" and value.isdecimal():
            last_id = int(value)
        elif field == "event":
            kind = value
        elif field == "data":
            data.append(value)


def _entry(last_id: int, kind: str, data: list[str]) -> Entry | None:
    try:
        document = json.loads("\n".join(data))
    except ValueError:
        return None
    return Entry(last_id, kind, document) if isinstance(document, dict) else None


def _lines(blocks: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r").decode(errors="replace")
