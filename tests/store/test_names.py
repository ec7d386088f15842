"""Names, aliases and build ids are told apart by their shape, and none of them is a path."""

from __future__ import annotations

import contextlib
import os
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envmgr.errors import UsageError
from envmgr.names import (
    ALIAS_MAX_CHARS,
    alias,
    build_id,
    environment_name,
    is_alias,
    is_build_id,
    is_name,
    name_of_digest,
)

FIXED = settings(derandomize=True, max_examples=300, deadline=None)
DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)
ALIASES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+\-]{0,127}", fullmatch=True)
NEARLY = st.text(string.ascii_letters + string.digits + "-._+/ \n\0é٣", max_size=20) | st.text(max_size=130)


@FIXED
@given(digest=DIGESTS, number=st.integers(0, 10**6))
def test_shapes_do_not_overlap_where_they_meet(digest: str, number: int) -> None:
    """A name is a name and no alias; a build id is a build id and no name."""
    name = name_of_digest(digest)
    assert is_name(name)
    assert not is_alias(name)
    assert not is_alias(name.upper())
    assert environment_name(name) == name
    build = build_id(digest, number)
    assert is_build_id(build)
    assert not is_name(build)
    assert build.rpartition("-")[0] == digest[:12]


@FIXED
@given(text=ALIASES)
def test_what_may_be_an_alias(text: str) -> None:
    """All that the documented pattern allows is an alias, but for what looks like a name."""
    looks_like_a_name = text.lower().startswith("env-") and set(text.lower()[4:]) <= set("0123456789abcdef")
    assert is_alias(text) != looks_like_a_name
    if looks_like_a_name:
        with pytest.raises(UsageError, match="looks like"):
            alias(text)
    else:
        assert alias(text) == text


@FIXED
@given(text=NEARLY)
def test_nothing_accepted_is_a_path(text: str) -> None:
    """Whatever is accepted is one component of a path: no separator, no dots alone, no control character, ASCII."""
    for accepts in (is_name, is_alias, is_build_id):
        if accepts(text):
            assert os.path.basename(text) == text
            assert text.isascii()
            assert text.isprintable()
            assert not text.startswith((".", "-"))
            assert len(text) <= 255
    for check in (alias, environment_name):
        with contextlib.suppress(UsageError):
            check(text)


@pytest.mark.parametrize("text", ["", ".", "..", "a/b", "a\n", "\0", "env-", "env-00", "-a", "é", "x" * 129])
def test_what_is_no_alias(text: str) -> None:
    """The words that would hurt most are refused, one by one."""
    assert not is_alias(text)
    assert is_alias("x" * ALIAS_MAX_CHARS)
