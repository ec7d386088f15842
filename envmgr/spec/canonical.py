"""The canonical text ``envmgr-spec-1``, which is the whole identity of a spec, and the name that follows from it.

**The text** is UTF-8, made of lines that each end in LF. A line is a kind and its values, separated by TAB. In a value
``\\`` is written ``\\\\``, TAB ``\\t``, LF ``\\n`` and CR ``\\r``; nothing else is escaped. The first line is
``envmgr-spec-1``. The others follow in the order of this table; lines of one kind are in the order that it says, where
*sorted* means by the bytes of the finished line, and a line never stands twice.

=============== ============================================ ===================================================
kind            values                                       order
=============== ============================================ ===================================================
channel         the channel                                  as in the document (priority); first occurrence
nodefaults      none                                         at most one
conda           MatchSpec, then its selector words           sorted
pip             requirement, then its selector words         sorted
pip-hash        requirement, hash, its selector words        sorted
pip-constraint  requirement                                  sorted
pip-option      long flag, value (empty for a bare flag)     as in the document; first occurrence
variable        name, value                                  sorted
platform        subdir                                       sorted
=============== ============================================ ===================================================

The normal forms of the values are those of `envmgr.spec.channels`, `envmgr.spec.match_specs` (with
`envmgr.spec.versions`), `envmgr.spec.platforms`, `envmgr.spec.pip_requirements` (with `envmgr.spec.markers`) and
`envmgr.spec.pip_options`. A pip section without a conda requirement of that name adds ``pip`` before any of this.

**A conda-lock.yml** as spec has the lines ``envmgr-spec-1``, ``lockfile``, and sorted for each artifact ``artifact``
with manager, platform, name, version, category, and what its bytes are: ``sha256:…``, else ``md5:…``, or for a
package from version control ``url:…`` with its full commit. Where it was fetched from, and how the lockfile came to
be, are no part of it.

**The digest** is the SHA-256 of the text; **the name** is ``env-`` and the digest's first 16 hexadecimal digits.

The text is injective: since TAB and LF are escaped in values, lines and values are recovered from it exactly, so two
different specs never have one text. What is accepted keeps its text for ever. A later version of the text
(``envmgr-spec-2``) may only serve documents that this one refuses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from envmgr.model import CondaRequirement, PipOption, PipRequirement
from envmgr.names import CANONICAL_VERSION

HEADER = f"envmgr-spec-{CANONICAL_VERSION}"
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


def canonical_text(
    *,
    channels: Iterable[str],
    has_nodefaults: bool,
    conda: Iterable[CondaRequirement],
    pip: Iterable[PipRequirement],
    pip_constraints: Iterable[PipRequirement],
    pip_options: Iterable[PipOption],
    variables: Iterable[tuple[str, str]],
    platforms: Iterable[str],
) -> str:
    """Return the canonical text of a spec whose values are normal forms already."""
    pip = list(pip)
    lines = [
        HEADER,
        *dict.fromkeys(_line("channel", channel) for channel in channels),
        *(["nodefaults"] if has_nodefaults else []),
        *_sorted(_line("conda", it.match_spec, *it.platforms) for it in conda),
        *_sorted(_line("pip", it.requirement, *it.platforms) for it in pip),
        *_sorted(_line("pip-hash", it.requirement, digest, *it.platforms) for it in pip for digest in it.hashes),
        *_sorted(_line("pip-constraint", it.requirement) for it in pip_constraints),
        *dict.fromkeys(_line("pip-option", option.flag, option.value) for option in pip_options),
        *_sorted(_line("variable", name, value) for name, value in variables),
        *_sorted(_line("platform", platform) for platform in platforms),
    ]
    return "\n".join(lines) + "\n"


def lockfile_text(artifacts: Iterable[tuple[str, ...]]) -> str:
    """Return the canonical text of a lockfile with these artifacts (their values in the order of the docstring)."""
    lines = [HEADER, "lockfile", *_sorted(_line("artifact", *values) for values in artifacts)]
    return "\n".join(lines) + "\n"


def digest_of(text: str) -> str:
    """Return the SHA-256 of a canonical text, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _line(kind: str, *values: str) -> str:
    return "\t".join((kind, *(value.translate(_ESCAPES) for value in values)))


def _sorted(lines: Iterable[str]) -> list[str]:
    # By code point, which for UTF-8 is also the order of the bytes.
    return sorted(set(lines))
