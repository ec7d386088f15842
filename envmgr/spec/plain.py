"""Documents that are given as Python's mappings, lists and strings instead of YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping as AnyMapping

import yaml

from envmgr.spec.document import MAX_DEPTH, Mapping, Node, Scalar, Sequence
from envmgr.spec.problems import Findings, shown

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.=<>, -]*")


def node_of(document: AnyMapping[str, object], source: str) -> Node:
    """Return the nodes of a mapping, all without position; raise `InvalidSpec` for what YAML could not say as text."""
    findings = Findings(source)
    node = _node(document, "", findings, 0)
    findings.raise_if_any()
    return node


def yaml_of(document: AnyMapping[str, object]) -> str:
    """Return YAML for a mapping that `node_of` has accepted."""
    # ASCII with escapes: written raw, some characters (U+0085, U+2028) would be read back as the end of a line.
    return yaml.dump(_plain(document), Dumper=_Dumper, allow_unicode=False, sort_keys=False)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that is not plainly a word: what YAML takes for a number differs between readers."""


def _write_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if _WORD.fullmatch(text) else '"')


_Dumper.add_representer(str, _write_text)


def _node(value: object, path: str, findings: Findings, depth: int) -> Node:
    if depth > MAX_DEPTH:
        findings.problem(0, 0, f"{path or 'the document'} is nested more than {MAX_DEPTH} levels deep")
    elif isinstance(value, AnyMapping):
        entries = []
        for key, item in value.items():
            if not isinstance(key, str):
                findings.problem(0, 0, f"the key {shown(str(key))} of {path or 'the document'} is not text")
                continue
            entries.append((_scalar(key), _node(item, f"{path}.{key}" if path else key, findings, depth + 1)))
        return Mapping(tuple(entries), 0, 0, 0, 0)
    elif isinstance(value, list | tuple):
        items = (_node(item, f"{path}[{index}]", findings, depth + 1) for index, item in enumerate(value))
        return Sequence(tuple(items), False, 0, 0, 0, 0)
    elif value is None:
        return _scalar("", is_plain=True)
    elif isinstance(value, str):
        return _scalar(value)
    elif isinstance(value, bool) or (isinstance(value, int) and abs(value) < 10**18):
        # Plain, so that a number among the requirements is noticed as in YAML.
        return _scalar(_number(value), is_plain=True)
    else:
        hint = "write it as a string"
        findings.problem(0, 0, f"{path or 'the document'} is a {type(value).__name__}, not text", hint)
    return _scalar("")


def _scalar(text: str, *, is_plain: bool = False) -> Scalar:
    return Scalar(text, is_plain, 0, 0, 0, 0)


def _number(value: bool | int) -> str:
    return str(value).lower()


def _plain(value: object) -> object:
    if isinstance(value, AnyMapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    # Subclasses of str (enumerations, names) are more than the YAML library writes.
    return _number(value) if isinstance(value, int) else None if value is None else str(value)
