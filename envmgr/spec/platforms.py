"""conda's platforms, and the selector comments that name them.

A requirement may carry a comment such as ``# [linux]``, as conda-lock reads it: it counts only on platforms that the
word selects. Words are families (`FAMILIES`) or a subdir, which may also be written in conda-build's way (``linux64``,
``arm64``); several are joined with ``or``. Other bracketed comments (``# [test]``) are comments.

Within a document a selector is kept as sorted words, not as the platforms that they stand for today, so that a new
subdir moves no name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from envmgr.spec.problems import Refusal, closest, shown

SUBDIRS = (
    "linux-32",
    "linux-64",
    "linux-aarch64",
    "linux-armv6l",
    "linux-armv7l",
    "linux-loongarch64",
    "linux-ppc64",
    "linux-ppc64le",
    "linux-riscv32",
    "linux-riscv64",
    "linux-s390x",
    "osx-64",
    "osx-arm64",
    "win-32",
    "win-64",
    "win-arm64",
    "freebsd-64",
    "emscripten-wasm32",
    "wasi-wasm32",
    "zos-z",
)
FAMILIES = ("linux", "osx", "unix", "win")
_SPELLINGS = {
    "linux32": "linux-32",
    "linux64": "linux-64",
    "aarch64": "linux-aarch64",
    "armv6l": "linux-armv6l",
    "armv7l": "linux-armv7l",
    "ppc64le": "linux-ppc64le",
    "riscv64": "linux-riscv64",
    "s390x": "linux-s390x",
    "osx64": "osx-64",
    "arm64": "osx-arm64",
    "win32": "win-32",
    "win64": "win-64",
}
_WORDS = {**{word: word for word in (*FAMILIES, *SUBDIRS)}, **_SPELLINGS}
_UNREADABLE = frozenset(("and", "or", "not", "(", ")", ",", "x86", "x86_64"))
_BRACKETS = re.compile(r"\[([^\[\]]+)\]")
_TOKEN = re.compile(r"[()\[\],]|[^\s()\[\],]+")


def is_subdir(text: str) -> bool:
    """Tell whether `text` is a platform of conda's, or ``noarch``."""
    return text in SUBDIRS or text == "noarch"


def platform(text: str) -> str:
    """Check one item of ``platforms:``; raise `Refusal` where conda has no such platform."""
    if text in SUBDIRS:
        return text
    meant = _SPELLINGS.get(text) or closest(text, SUBDIRS)
    raise Refusal(
        f"{shown(text)} is not one of conda's platforms",
        f"did you mean {meant}?" if meant else "for example linux-64, linux-aarch64, osx-arm64, win-64",
    )


def selected(comment: str) -> tuple[str, ...]:
    """Return the sorted words of a comment's selector, none where it has none; raise `Refusal` for an unreadable one.

    As conda-lock does, the comment's last bracket counts, with no parenthesis behind it.
    """
    brackets = list(_BRACKETS.finditer(comment))
    if not brackets or "(" in comment[brackets[-1].end() :] or ")" in comment[brackets[-1].end() :]:
        return ()
    tokens = _TOKEN.findall(brackets[-1].group(1))
    words = tokens[::2]
    if all(word in _WORDS for word in words) and len(tokens) % 2 and set(tokens[1::2]) <= {"or"}:
        return tuple(sorted({_WORDS[word] for word in words}))
    if all(token in _WORDS or token in _UNREADABLE for token in tokens):
        raise Refusal(
            f"the platform selector {shown(brackets[-1].group())} is not read here",
            "one word such as [linux], [osx], [win], [unix], [linux64], [arm64], or several joined with 'or'",
        )
    return ()


def resembles_selector(comment: str) -> bool:
    """Tell whether a comment that `selected` takes for prose names a platform in brackets."""
    return any(_WORDS.keys() & set(_TOKEN.findall(bracket)) for bracket in _BRACKETS.findall(comment))


def applies(platforms: Iterable[str], subdir: str) -> bool:
    """Tell whether a requirement with these selector words counts on `subdir`; no words: everywhere."""
    family = subdir.partition("-")[0]
    names = {subdir, family} | ({"unix"} if family in ("linux", "osx") else set())
    words = tuple(platforms)
    return not words or not names.isdisjoint(words)
