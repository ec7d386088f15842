"""What conda, mamba and micromamba say: the JSON in their output, and their errors as ours."""

from __future__ import annotations

import json
from collections.abc import Mapping


def last_object(text: str) -> Mapping[str, object] | None:
    """Return the last JSON object in `text` that begins a line, or ``None``.

    Warnings and progress stand before it in what some versions print, and mamba 1 prints conda's object before its own.
    """
    decoder = json.JSONDecoder()
    found: Mapping[str, object] | None = None
    at = 0
    while (at := text.find("{", at)) >= 0:
        if at and text[at - 1] not in "\n\r\0":
            at += 1
            continue
        try:
            document, at = decoder.raw_decode(text, at)
        except ValueError:
            at += 1
        else:
            found = document
    return found
