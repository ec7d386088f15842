"""Translates the pip options of a spec for uv: one table, and a refusal by name for everything that is not in it.

uv skips some of pip's options in a requirements file without an error (``--pre``), so none is ever handed to it in
one. `envmgr.spec` says which options a document may have; this says what each becomes.

=========================================== ===========================================================================
``--index-url``, ``-i``, ``--pypi-url``     the default index (``UV_DEFAULT_INDEX``); the last one counts, and it
                                            replaces the site's
``--extra-index-url``                       one more index (``UV_INDEX``); the best version of all indexes is taken, as
                                            pip does (``--index-strategy unsafe-best-match``), not the first index's
``--no-index``                              no index at all, only ``--find-links``
``--find-links``, ``-f``                    a page or directory of files (``UV_FIND_LINKS``)
``--pre``                                   ``--prerelease allow``
``--no-binary``, ``--only-binary``          the same, after pip's own rules for ``:all:``, ``:none:`` and contradictions
``--prefer-binary``                         only wheels at first; sources for what has none (see `locking`)
``--trusted-host``                          ``UV_INSECURE_HOST``
``--no-deps``                               the same: only what the section itself names is locked
``--no-build-isolation``                    the same, for solving and for installing
``--config-settings``                       ``--config-setting``, for solving and for installing
=========================================== ===========================================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from packaging.utils import canonicalize_name

from envmgr.errors import InvalidSpec

ALL = ":all:"
NONE = ":none:"
_ALIASES = {
    "-i": "--index-url",
    "--pypi-url": "--index-url",
    "-f": "--find-links",
    "--no-dependencies": "--no-deps",
    "-C": "--config-settings",
    "--config-setting": "--config-settings",
}
HONOURED = (
    "--index-url", "--extra-index-url", "--no-index", "--find-links", "--pre", "--no-binary", "--only-binary",
    "--prefer-binary", "--trusted-host", "--no-deps", "--no-build-isolation", "--config-settings",
)  # fmt: skip

_SWITCHES = {
    "--no-index": "has_no_index",
    "--pre": "has_pre",
    "--prefer-binary": "has_prefer_binary",
    "--no-deps": "has_no_deps",
}
_LISTS = {
    "--extra-index-url": "extra_index_urls",
    "--find-links": "find_links",
    "--trusted-host": "trusted_hosts",
}


@dataclass(slots=True)
class Options:
    """What the options of one spec come to; names are normalised, or `ALL`."""

    index_url: str | None = None
    extra_index_urls: list[str] = field(default_factory=list)
    find_links: list[str] = field(default_factory=list)
    trusted_hosts: list[str] = field(default_factory=list)
    has_no_index: bool = False
    has_pre: bool = False
    has_prefer_binary: bool = False
    has_no_deps: bool = False
    build_flags: list[str] = field(default_factory=list)
    no_binary: set[str] = field(default_factory=set)
    only_binary: set[str] = field(default_factory=set)


def translate(options: Iterable[tuple[str, str]]) -> Options:
    """Read a spec's options in their order; `InvalidSpec` names the first that uv has no way to honour."""
    found = Options()
    for given, value in options:
        flag = _ALIASES.get(given, given)
        switch = _SWITCHES.get(flag)
        values = _LISTS.get(flag)
        if switch is not None:
            setattr(found, switch, True)
        elif values is not None:
            getattr(found, values).append(value)
        elif flag == "--index-url":
            found.index_url = value
        elif flag == "--no-build-isolation":
            found.build_flags.append(flag)
        elif flag == "--config-settings":
            found.build_flags += ["--config-setting", value]
        elif flag == "--no-binary":
            _restrict(value, found.no_binary, found.only_binary)
        elif flag == "--only-binary":
            _restrict(value, found.only_binary, found.no_binary)
        else:
            raise InvalidSpec(f"the pip option {given} cannot be honoured", hint=f"honoured are: {', '.join(HONOURED)}")
    return found


def _restrict(value: str, target: set[str], other: set[str]) -> None:
    """Apply one ``--no-binary`` or ``--only-binary``: the later of two that contradict each other wins."""
    for word in value.replace(",", " ").split():
        if word == NONE:
            target.clear()
        elif word == ALL:
            other.clear()
            target.clear()
            target.add(ALL)
        elif ALL not in target:
            name = canonicalize_name(word)
            other.discard(name)
            target.add(name)


def format_flags(no_binary: Iterable[str], only_binary: Iterable[str]) -> Sequence[str]:
    """Return uv's flags for two sets of names; to uv, a name of one is an exception to `ALL` of the other."""
    flags = []
    for flag, names in (("--no-binary", no_binary), ("--only-binary", only_binary)):
        for name in sorted(names):
            flags += [flag, name]
    return flags
