"""Requests made up from the daemon's own OpenAPI document, and its answers held against it.

`explore` asks every operation of the interface, with requests that fit the document and with such that do not; words
in paths are now and then ones that lead somewhere. It fails for a 5xx, for an answer whose status, content type,
headers or body the document does not know, and for a request that ought to be refused and was not.

schemathesis has no way to a unix socket, so this goes over TCP with a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode, checks, openapi

CHECKS = (
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
    checks.allow_header_conformance,
)
TIMEOUT_S = 60.0


def explore(
    url: str, token: str, *, examples: int, known: Mapping[str, Sequence[str]], number: int = 0, below: str = ""
) -> int:
    """Ask each operation (`below` a path) `examples` times in either way; return how many requests were answered.

    `known` has words that lead somewhere, by the name of a path's parameter; `number` seeds what is made up.
    """
    asked = 0
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {token}"
        document = session.get(f"{url}/openapi.json", timeout=TIMEOUT_S).json()
        for found in openapi.from_dict(document).get_all_operations():
            operation = found.ok()
            if not operation.path.startswith(below):
                continue
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                asked += _ask(url, session, operation, mode, examples, known, number)
    return asked


def _ask(
    url: str, session: requests.Session, operation: Any, mode: GenerationMode, examples: int,
    known: Mapping[str, Sequence[str]], number: int,
) -> int:  # fmt: skip
    asked = 0

    @seed(number)
    @settings(
        max_examples=examples, deadline=None, database=None, report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode), data=st.data())
    def ask(case: schemathesis.Case, data: st.DataObject) -> None:
        nonlocal asked
        for key in case.path_parameters if mode is GenerationMode.POSITIVE else ():
            if data.draw(st.booleans()):
                case.path_parameters[key] = data.draw(st.sampled_from(list(known[key])))
        answer = case.call(url, session, timeout=TIMEOUT_S)
        asked += 1
        case.validate_response(answer, checks=list(CHECKS))

    try:
        ask()
    except Unsatisfiable:
        return asked  # nothing about this operation can be wrong in this way: it has no parameters
    return asked
