"""What this machine is called in conda's terms, without rattler: its subdir, and which selectors are true there."""

from __future__ import annotations

import os
import sys

from envmgr.errors import IncompatibleHost

_LINUX = {
    "x86_64": "linux-64",
    "i686": "linux-32",
    "i386": "linux-32",
    "aarch64": "linux-aarch64",
    "arm64": "linux-aarch64",
    "armv6l": "linux-armv6l",
    "armv7l": "linux-armv7l",
    "ppc64le": "linux-ppc64le",
    "riscv64": "linux-riscv64",
    "s390x": "linux-s390x",
}
_MACOS = {"x86_64": "osx-64", "arm64": "osx-arm64"}

SUBDIRS = frozenset({*_LINUX.values(), *_MACOS.values(), "noarch", "linux-ppc64", "win-32", "win-64", "win-arm64"})
"""Every subdir that a channel may have; at the end of a channel's URL they are no part of the channel."""


def subdir(system: str = sys.platform, machine: str | None = None) -> str:
    """Return the subdir of this machine (or of another one); raise `IncompatibleHost` if conda has none for it."""
    if machine is None:
        machine = os.uname().machine if hasattr(os, "uname") else os.environ.get("PROCESSOR_ARCHITECTURE", "")
    if system == "win32":
        return {"x86": "win-32", "arm64": "win-arm64"}.get(machine.lower(), "win-64")
    found = (_MACOS if system == "darwin" else _LINUX).get(machine)
    if found is None:
        raise IncompatibleHost(f"conda has no packages for {system} on {machine}")
    return found


def is_selected(platforms: tuple[str, ...], on_subdir: str) -> bool:
    """Tell whether something with these selector words (any of them; none: everywhere) counts on `on_subdir`.

    A word is a subdir or a family (``linux``, ``osx``, ``win``, ``unix``), as `envmgr.spec` keeps them.
    """
    family = on_subdir.partition("-")[0]
    words = {on_subdir, family} | ({"unix"} if family in ("linux", "osx") else set())
    return not platforms or not words.isdisjoint(platforms)
