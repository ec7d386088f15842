"""YAML text into nodes that know where they stand, within limits.

The text is read as a stream of the YAML library's events (never built by recursion, and nothing of what it describes
is ever constructed): scalars keep the text as written (``3.10`` stays ``3.10``), every node has its line and column,
and anchors, aliases and merge keys work within a limit on the expanded size. Refused: anything but UTF-8, control
characters, more than one document, tags, duplicate keys, and what exceeds `MAX_BYTES`, `MAX_NODES`, `MAX_DEPTH`.

libyaml is used where the YAML library has it. The library's own scanner, used elsewhere, gives the same nodes for
what both accept; it refuses some documents with tabs that libyaml reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import yaml

from envmgr.spec.problems import Findings, shown

MAX_BYTES = 1 << 20
MAX_NODES = 50_000
MAX_DEPTH = 16

_LOADER: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_STR_TAGS = (None, "!", "tag:yaml.org,2002:str")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_LINE_END = re.compile("[\n\x85\u2028\u2029]")
_NULLS = ("", "~", "null", "Null", "NULL")
_BOOLEANS = ("yes", "no", "true", "false", "on", "off")
_NUMBER = re.compile(r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?")


class Scalar(NamedTuple):
    """Text as written; `is_plain` without quotes or tag, where YAML would guess a type; `start`, `end` offsets."""

    value: str
    is_plain: bool
    line: int
    column: int
    start: int
    end: int

    @property
    def is_null(self) -> bool:
        """Whether YAML reads this as null."""
        return self.is_plain and self.value in _NULLS

    @property
    def is_number(self) -> bool:
        """Whether YAML reads this as a number."""
        return self.is_plain and _NUMBER.fullmatch(self.value) is not None

    @property
    def is_boolean(self) -> bool:
        """Whether YAML reads this as true or false."""
        return self.is_plain and self.value.lower() in _BOOLEANS


class Sequence(NamedTuple):
    """A list; `is_flow` when written in brackets."""

    items: tuple[Node, ...]
    is_flow: bool
    line: int
    column: int
    start: int
    end: int


class Mapping(NamedTuple):
    """Keys and values in the order of the text, each key once."""

    entries: tuple[tuple[Scalar, Node], ...]
    line: int
    column: int
    start: int
    end: int

    def get(self, key: str) -> Node | None:
        """Return the value of `key`, or None."""
        return next((value for name, value in self.entries if name.value == key), None)


Node = Scalar | Sequence | Mapping


class Document(NamedTuple):
    """The decoded text (line ends are LF, no BOM) and its root node."""

    text: str
    root: Node | None

    def comment_after(self, node: Node) -> str:
        """Return the comment that ends the line on which a scalar ends (or a block scalar begins), with its ``#``."""
        if not self.text:
            return ""
        if isinstance(node, Scalar) and self.text[node.start : node.start + 1] in ("|", ">"):
            return self._comment(node.start + 1, "+-0123456789")
        return self._comment(node.end, ",]}:" if isinstance(node, Scalar) else "")

    def comments_within(self, node: Node) -> Iterator[str]:
        """Yield the comments of the lines of `node` that follow a value; may take quoted text for one."""
        end = _LINE_END.search(self.text, max(node.end - 1, node.start))
        for line in _LINE_END.split(self.text[node.start : end.start() if end else len(self.text)]):
            before, mark, comment = line.partition(" #")
            if mark and before.strip():
                yield "#" + comment

    def _comment(self, index: int, skipped: str) -> str:
        end = _LINE_END.search(self.text, index)
        rest = self.text[index : end.start() if end else len(self.text)]
        bare = rest.lstrip(" \t" + skipped)
        return bare if bare.startswith("#") and bare != rest else ""


def decode(text: bytes | str, findings: Findings) -> str:
    """Return `text` as characters, without BOM and with LF as line end; raise `InvalidSpec` where it is not UTF-8."""
    size = len(text)
    if size > MAX_BYTES:
        findings.problem(0, 0, f"the document has {size} bytes, more than the limit of {MAX_BYTES}")
        findings.raise_if_any()
    decoded = _decode_bytes(text, findings) if isinstance(text, bytes) else text
    decoded = decoded.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if bad := _UNPRINTABLE.search(decoded):
        line, column = _place(decoded, bad.start())
        code = f"U+{ord(bad.group()):04X}"
        findings.problem(line, column, f"the character {code} may not stand in a YAML document", "remove it")
    findings.raise_if_any()
    return decoded


def _decode_bytes(text: bytes, findings: Findings) -> str:
    if text[:2] in (b"\xff\xfe", b"\xfe\xff") or (len(text) > 1 and 0 in text[:2]):
        findings.problem(1, 1, "the document is UTF-16 or UTF-32, not UTF-8", "save it as UTF-8")
        findings.raise_if_any()
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        line, column = _place(text[: error.start].decode("utf-8").replace("\r\n", "\n"), error.start)
        message = f"the byte 0x{text[error.start]:02x} is not UTF-8"
        findings.problem(line, column, message, "save the document as UTF-8")
    findings.raise_if_any()
    return ""


def _place(text: str, index: int) -> tuple[int, int]:
    before = text[:index]
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def read_document(text: str, findings: Findings) -> Document:
    """Read decoded text; a YAML error raises `InvalidSpec` at once, duplicate keys only become findings."""
    try:
        return Document(text, _Composer(findings).compose(text))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        index = mark.index if mark else 0
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        found = _LINE_END.split(text)[line - 1 : line]
        indent = found[0][: len(found[0]) - len(found[0].lstrip())] if found else ""
        if "\t" in indent or text[index : index + 1] == "\t":
            findings.problem(line, column, "a tab stands where YAML allows only spaces", "indent with spaces")
        else:
            findings.problem(line, column, f"not YAML: {error.problem or error.context}", _yaml_hint(found))
    except yaml.YAMLError as error:
        findings.problem(0, 0, f"not YAML: {shown(str(error))}")
    findings.raise_if_any()
    return Document(text, None)


def _yaml_hint(line: list[str]) -> str | None:
    bare = line[0].lstrip(" -") if line else ""
    if bare[:1] in ("*", "&", "!", "%", "@", "`", "{", "["):
        return "put the value in quotes"
    if bare.startswith(("<", ">", "=")):
        return "put the value in quotes, and the package's name before the version"
    return "compare the indentation and the quotes with the lines before"


class _At(NamedTuple):
    """A place in the text: line and column from one, offset from zero."""

    line: int
    column: int
    offset: int


def _at(event: yaml.Event, *, is_end: bool = False) -> _At:
    mark = event.end_mark if is_end else event.start_mark
    return _At(mark.line + 1, mark.column + 1, mark.index) if mark is not None else _At(0, 0, 0)


class _Frame:
    """A collection that is still open."""

    __slots__ = ("anchor", "column", "is_flow", "is_mapping", "items", "line", "size", "start")

    def __init__(self, event: yaml.CollectionStartEvent, *, is_mapping: bool) -> None:
        self.is_mapping = is_mapping
        self.anchor = event.anchor
        self.is_flow = bool(event.flow_style)
        self.line, self.column, self.start = _at(event)
        self.items: list[Node] = []
        self.size = 1


class _Composer:
    """Builds nodes from events, with the limits."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._frames: list[_Frame] = []
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._root: Node | None = None
        self._documents = 0
        self._nodes = 0

    def compose(self, text: str) -> Node | None:
        for event in yaml.parse(text, Loader=_LOADER):
            self._take(event)
        return self._root

    def _take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self._check_tag(event, _STR_TAGS)
            at = _at(event)
            is_plain = event.style in (None, "") and event.tag is None
            node = Scalar(event.value, is_plain, at.line, at.column, at.offset, _at(event, is_end=True).offset)
            self._add(node, 1, event.anchor, event)
        elif isinstance(event, yaml.AliasEvent):
            self._take_alias(event)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            is_mapping = isinstance(event, yaml.MappingStartEvent)
            self._check_tag(event, (None, "!", "tag:yaml.org,2002:map" if is_mapping else "tag:yaml.org,2002:seq"))
            if len(self._frames) >= MAX_DEPTH:
                self._stop(event, f"the document is nested more than {MAX_DEPTH} levels deep")
            self._frames.append(_Frame(event, is_mapping=is_mapping))
        elif isinstance(event, yaml.CollectionEndEvent):
            frame = self._frames.pop()
            end = _at(event, is_end=True).offset
            node_ = self._mapping(frame, end) if frame.is_mapping else self._sequence(frame, end)
            self._add(node_, frame.size, frame.anchor, event)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                self._stop(event, "more than one YAML document in the text", "keep one, without a second '---'")

    def _take_alias(self, event: yaml.AliasEvent) -> None:
        found = self._anchors.get(event.anchor or "")
        if found is None:
            self._stop(event, f"the alias *{event.anchor} has no anchor before it (or stands inside it)")
            return
        node, size = found
        if isinstance(node, Scalar):
            # Its own place, so that a comment behind the alias belongs to the alias.
            at, end = _at(event), _at(event, is_end=True).offset
            node = node._replace(line=at.line, column=at.column, start=at.offset, end=end)
        self._add(node, size, None, event)

    def _add(self, node: Node, size: int, anchor: str | None, event: yaml.Event) -> None:
        self._nodes += size if isinstance(event, yaml.AliasEvent) else 1
        if self._nodes > MAX_NODES:
            self._stop(event, f"the document has more than {MAX_NODES} nodes, aliases expanded")
        if anchor is not None:
            self._anchors[anchor] = (node, size)
        if self._frames:
            self._frames[-1].items.append(node)
            self._frames[-1].size += size
        else:
            self._root = node

    def _sequence(self, frame: _Frame, end: int) -> Sequence:
        return Sequence(tuple(frame.items), frame.is_flow, frame.line, frame.column, frame.start, end)

    def _mapping(self, frame: _Frame, end: int) -> Mapping:
        entries: dict[str, tuple[Scalar, Node]] = {}
        merged: list[Mapping] = []
        for key, value in zip(frame.items[::2], frame.items[1::2], strict=True):
            if not isinstance(key, Scalar):
                self._findings.problem(key.line, key.column, "a key must be a plain word")
            elif key.value == "<<" and key.is_plain:
                merged += self._merged(key, value)
            elif key.value in entries:
                first = entries[key.value][0].line
                message = f"the key {shown(key.value)} stands here for the second time (first: line {first})"
                self._findings.problem(key.line, key.column, message, "join the two")
            else:
                entries[key.value] = (key, value)
        for mapping in merged:
            for key, value in mapping.entries:
                entries.setdefault(key.value, (key, value))
        return Mapping(tuple(entries.values()), frame.line, frame.column, frame.start, end)

    def _merged(self, key: Scalar, value: Node) -> list[Mapping]:
        parts = list(value.items) if isinstance(value, Sequence) else [value]
        found = [part for part in parts if isinstance(part, Mapping)]
        if len(found) != len(parts):
            self._findings.problem(key.line, key.column, "'<<' merges mappings only")
        return found

    def _check_tag(self, event: yaml.NodeEvent, allowed: tuple[str | None, ...]) -> None:
        tag: str | None = getattr(event, "tag", None)
        if tag not in allowed:
            self._stop(event, f"the YAML tag {shown(str(tag))} is not read here", "write the value without a tag")

    def _stop(self, event: yaml.Event, message: str, hint: str | None = None) -> None:
        at = _at(event)
        self._findings.problem(at.line, at.column, message, hint)
        self._findings.raise_if_any()
