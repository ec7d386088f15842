"""What crosses the builder's pipe arrives as it was sent, or is refused by the field that does not fit."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envmgr import codec
from envmgr.wire.pipe import BuildRequest, BuildResult, Channel, Network, PipSettings

REQUEST = BuildRequest(
    action="build", name="env-0123456789abcdef", digest="0" * 64, subdir="linux-64", conda=("numpy",), pip=("rich",),
    channels=(Channel("conda-forge", ("https://a.invalid", "https://b.invalid")),), channel_priority="strict",
    variables=(("A", "é\n\0"),), lockfile=None, build_dir="/b", prefix="/b/envs/x", package_cache="/p", uv_cache="/u",
    machine_class="linux-64+cuda12", network=Network(proxies=(("http", "x"),), mirrors=(("a", ("b", "c")),)),
    pip_settings=PipSettings(options=(("--pre", ""),), allow_sdists=("a",)), allow_link_scripts=None,
)  # fmt: skip
RESULT = BuildResult("0" * 64, 3, 10, None, (("link", 0.5),), warnings=("w",))
FIXED = settings(derandomize=True, max_examples=200, deadline=None)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("record", [REQUEST, RESULT], ids=["request", "result"])
def test_a_record_arrives_as_it_was_sent(record: BuildRequest | BuildResult) -> None:
    """A record is one line of JSON, and is read back equal, tuples and all."""
    text = codec.dump(record)
    assert "\n" not in text
    assert codec.load(type(record), json.loads(text)) == record


@FIXED
@given(st.builds(BuildResult, st.text(), st.integers(), st.integers(), st.none() | st.text(), st.just(())))
def test_any_result_arrives(result: BuildResult) -> None:
    """Any text and any number arrives unchanged."""
    assert codec.load(BuildResult, json.loads(codec.dump(result))) == result


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 5), ("name", None), ("action", "destroy"), ("conda", "numpy"), ("conda", [1]), ("channels", [{}]),
        ("channels", [{"name": "a", "urls": "b"}]), ("variables", [["a"]]), ("variables", [["a", "b", "c"]]),
        ("network", {"timeout_s": "1"}), ("network", None), ("lockfile", 5), ("allow_md5", "yes"), ("allow_md5", 1),
        ("version", "1"), ("version", 1.5), ("action", ["build"]),
    ],
)  # fmt: skip
def test_a_field_that_does_not_fit_is_named(field: str, value: object) -> None:
    """A request in which one field is of the wrong kind is refused with that field's name."""
    with pytest.raises(ValueError, match=field):
        codec.load(BuildRequest, {**dataclasses.asdict(REQUEST), **_jsonable(REQUEST), field: value})


def _jsonable(record: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(codec.dump(record))
    return found


@pytest.mark.parametrize("field", [item.name for item in dataclasses.fields(BuildRequest)])
def test_a_missing_field(field: str) -> None:
    """A missing field has its default, or is refused by name; an unknown one, of a later version, is left alone."""
    document = _jsonable(REQUEST)
    del document[field]
    default = next(item for item in dataclasses.fields(BuildRequest) if item.name == field).default
    if default is dataclasses.MISSING:
        with pytest.raises(ValueError, match=field):
            codec.load(BuildRequest, document)
    else:
        assert getattr(codec.load(BuildRequest, {**document, "from the future": 1}), field) == default


@FIXED
@given(st.sampled_from([item.name for item in dataclasses.fields(BuildRequest)]), JSON)
def test_any_value_is_read_or_refused(field: str, value: object) -> None:
    """No value in any field raises anything but `ValueError`, and what is read can be sent on unchanged."""
    try:
        found = codec.load(BuildRequest, {**_jsonable(REQUEST), field: value})
    except ValueError:
        return
    assert codec.load(BuildRequest, _jsonable(found)) == found
