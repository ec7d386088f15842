"""Requests made up from the daemon's OpenAPI document (`fuzzing`, of the tests), for longer than a test may take."""

from __future__ import annotations

import contextlib

import fuzzing

from soaking.place import Place, Violation


def explore(place: Place, seed: int, examples: int) -> int:
    """Ask every operation so many times in either way; return how many requests were answered."""
    with contextlib.closing(place.connect()) as connection:
        operation = connection.ask("POST", "/v1/environments", place.asking(0)).document["operation"]["id"]
        *_, (_, end) = connection.events(operation)
    name = end["name"]
    place.ask("PUT", "/v1/aliases/training", {"environment": name})
    known = {"environment": (name, "training"), "alias": ("training",), "operation": (operation,), "host": ("host-1",)}
    try:
        return fuzzing.explore(f"http://{place.address}", place.token, examples=examples, known=known, number=seed)
    except Exception as error:
        raise Violation(f"{type(error).__name__}: {error}") from error
