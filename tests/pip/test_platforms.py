"""The wheels of a declared machine class are those that its glibc can load, on whatever host they are chosen."""

from __future__ import annotations

import pytest

from envmgr.backends.pip import platforms

TAGS = [
    "manylinux_2_36_x86_64",
    "manylinux_2_28_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "linux_x86_64",
]


def test_what_is_declared() -> None:
    """Only a declared glibc counts; without one, the host's own does."""
    assert platforms.glibc((("__cuda", "12"), ("__glibc", "2.28"))) == (2, 28)
    assert platforms.glibc((("__cuda", "12"),)) is None
    assert platforms.glibc((("__glibc", ""),)) is None
    assert platforms.glibc(None) is None


def test_tags_of_a_newer_glibc_do_not_fit() -> None:
    """Compared as numbers, the old names of the tags included."""
    assert platforms.fitting(TAGS, (2, 28)) == TAGS[1:]
    assert platforms.fitting(TAGS, (2, 9)) == TAGS[-1:]
    assert platforms.fitting(TAGS, None) == TAGS


@pytest.mark.parametrize(
    ("subdir", "newest", "word"),
    [
        ("linux-64", (2, 28), "x86_64-manylinux_2_28"),
        ("linux-64", (2, 30), "x86_64-manylinux_2_28"),
        ("linux-aarch64", (2, 17), "aarch64-manylinux2014"),
        ("linux-64", (2, 50), "x86_64-manylinux_2_40"),
    ],
)
def test_uv_is_told_the_newest_that_it_knows(subdir: str, newest: platforms.Glibc, word: str) -> None:
    """uv knows some versions only; the next lower one offers no wheel that the class cannot load."""
    assert platforms.flags(subdir, newest) == ["--python-platform", word]
    assert platforms.flags(subdir, None) == platforms.flags("linux-ppc64le", newest) == []
