"""Whatever a host writes into its nodes, the others read it, or say that it is damaged."""

from __future__ import annotations

import json
import zlib

import pytest

from envmgr.cli import output
from envmgr.coordination.zookeeper.holding import holder_of
from envmgr.coordination.zookeeper.nodes import Node
from envmgr.errors import Corrupt
from envmgr.wire.tree import EnvironmentStatus, HostStatus, decode, encode

WORD = "w" * 100_000
STATUS = '{"host": "a", "instance": "b", "at": %s}'


def node(text: str) -> bytes:
    return zlib.compress(text.encode())


@pytest.mark.parametrize(
    "data",
    [
        node(STATUS % ("1" + "0" * 400)),
        node(STATUS % "1e400"),
        node(STATUS % "NaN"),
        node(STATUS % "-Infinity"),
        node('{"host": "a", "instance": "\\ud800", "at": 1e400}'),
        node("[" * 100_000),
        node(json.dumps({"host": "a", "instance": "b", "environments": [{"name": "x", "state": WORD}]})),
        node(json.dumps({"host": "a", "instance": "b", "environments": {WORD: 1}})),
        zlib.compress(b" " * (64 << 20)),
        zlib.compress(b"[" + b"[]," * 5_000_000 + b"[]]"),
        node("{}")[:-1],
        b"",
    ],
    ids=["long", "infinite", "nan", "constant", "half", "deep", "state", "key", "bomb", "many", "cut", "empty"],
)
def test_what_is_no_record_is_damaged(data: bytes) -> None:
    """Nothing but `Corrupt` comes of it, in few words: they are told from host to host."""
    with pytest.raises(Corrupt) as caught:
        decode(HostStatus, data, "/v1/status/a")
    assert len(caught.value.message) < 500


def test_what_is_no_text_can_be_written_down_again() -> None:
    """Half of a surrogate pair, as a name of a file brings it, stops neither who tells of it nor who reads."""
    status = HostStatus(host="a", instance="b", environments=(EnvironmentStatus(name="x", state="ready"),))
    assert decode(HostStatus, encode(status), "a") == status
    odd = HostStatus(host="a", instance="b", problem="no \udc80 file \\ud800 and ü")
    assert decode(HostStatus, encode(odd), "a").problem == "no ? file \\ud800 and ü"
    found = decode(HostStatus, node('{"host": "a", "instance": "b", "problem": "\\ud83d\\ude00 \\ud800"}'), "a")
    assert found.problem == "\U0001f600 ?"


@pytest.mark.parametrize(
    "text", ["[1]", '"x"', "null", '{"host": "a", "pid": Infinity, "at": 0}', "[" * 100_000, '{"host":', "\udc80"]
)
def test_a_holder_that_cannot_be_read(text: str) -> None:
    """Who waits for a claim says whom he waits for, as far as that can be told."""
    found = Node(text.encode(errors="surrogateescape"), 0, 7, 7, 1, 3.0)
    assert (holder_of("/n", found).host, holder_of("/n", found).token) == ("an unknown host", 7)


def test_words_of_a_holder_are_few() -> None:
    """They go to terminals and logs."""
    data = json.dumps({"host": WORD, "pid": 1, "at": 0, "what": WORD}).encode()
    assert len(str(holder_of("/n", Node(data, 0, 7, 7, 1, 3.0)))) < 500


@pytest.mark.parametrize("at", [1e300, -1e300, 1e18])
def test_a_time_that_no_calendar_has(at: float) -> None:
    """A table of all hosts is shown, whatever one of them says of the time."""
    assert output.moment(at) == "-"
