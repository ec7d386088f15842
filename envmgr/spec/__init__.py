"""Environment documents, and the names that follow from them.

    spec = parse(Path("environment.yml").read_bytes(), source="environment.yml")
    spec.name, spec.canonical_text, spec.warnings

A name is a function of the text: nothing here reads a file, a clock, a setting, the environment or the network (what
``-r`` and ``-c`` of a pip section name is read through the function that the caller passes). `envmgr.spec.canonical`
specifies the canonical text. A document is refused as a whole, with every problem in it; what does not refuse it, but
is worth knowing, is in ``Spec.warnings``.
"""

from __future__ import annotations

from collections.abc import Mapping

from envmgr.model import Spec
from envmgr.names import CANONICAL_VERSION
from envmgr.spec import assembly, plain
from envmgr.spec.match_specs import source_channel
from envmgr.spec.pip_options import uv_arguments
from envmgr.spec.pip_section import ReadInclude, reader_of
from envmgr.spec.platforms import applies

__all__ = [
    "CANONICAL_VERSION",
    "ReadInclude",
    "applies",
    "parse",
    "parse_mapping",
    "reader_of",
    "source_channel",
    "uv_arguments",
]


def parse(text: bytes | str, *, source: str = "<spec>", read_include: ReadInclude | None = None) -> Spec:
    """Read an environment document (or a conda-lock.yml).

    `source` names it in messages. `read_include` returns the bytes of a requirements file by its path relative to the
    document; without it such a file is a problem. From ``spec.source_text`` with ``reader_of(dict(spec.includes))`` the
    same name follows without any file. Raises `InvalidSpec` with every problem, by position.
    """
    return assembly.from_text(text, source, read_include)


def parse_mapping(
    document: Mapping[str, object], *, source: str = "<mapping>", read_include: ReadInclude | None = None
) -> Spec:
    """Read a document that is given as a mapping of lists, mappings and strings; problems have no position.

    Numbers are accepted as variables' values only (true and false as ``true`` and ``false``). ``source_text`` is YAML
    that reads back to the same name. Raises `InvalidSpec`.
    """
    return assembly.from_root(plain.node_of(document, source), plain.yaml_of(document), source, read_include)
