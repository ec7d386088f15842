"""From a document's nodes to normal forms: the keys, the channels, the requirements, the variables.

Reads on after every problem, so that all are found. Where a YAML comment counts (a platform selector), it is found in
the text behind the value, since no YAML library keeps it.
"""

from __future__ import annotations

import re

from envmgr.model import CondaRequirement
from envmgr.spec.channels import CREDENTIALS, CREDENTIALS_HINT, channel
from envmgr.spec.document import Document, Mapping, Node, Scalar, Sequence
from envmgr.spec.match_specs import match_spec, package_name
from envmgr.spec.pip_section import PipSection, ReadInclude
from envmgr.spec.platforms import platform, resembles_selector, selected
from envmgr.spec.problems import Findings, Refusal, closest, shown

KEYS = ("name", "channels", "dependencies", "variables", "platforms", "prefix")
LABEL_MAX_CHARS = 200
_COMMENT = re.compile(r"\s#.*")
_NO_VALUE = re.compile("[\0\ud800-\udfff]")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Reader:
    """Reads one document; afterwards its attributes hold the normal forms."""

    def __init__(self, document: Document, findings: Findings, read_include: ReadInclude | None) -> None:
        self._document = document
        self._findings = findings
        self.label: str | None = None
        self.channels: dict[str, None] = {}
        self.has_nodefaults = False
        self.conda: set[CondaRequirement] = set()
        self.pip = PipSection(findings, read_include)
        self._pip_key: Scalar | None = None
        self.variables: dict[str, str] = {}
        self.variable_spans: list[tuple[int, int]] = []
        self.platforms: set[str] = set()

    def read(self, root: Mapping) -> None:
        """Read every key of the document."""
        self._check_keys(root)
        readers = {
            "name": self._read_name,
            "channels": self._read_channels,
            "dependencies": self._read_dependencies,
            "variables": self._read_variables,
            "platforms": self._read_platforms,
        }
        for key, value in root.entries:
            if key.value in readers and not (isinstance(value, Scalar) and value.is_null):
                readers[key.value](value)
        self._add_pip()

    def _check_keys(self, root: Mapping) -> None:
        found = {key.value for key, _ in root.entries}
        has_misspelling = False
        for key, _ in root.entries:
            if key.value in KEYS:
                continue
            meant = closest(key.value, KEYS)
            if meant is not None:
                has_misspelling = True
                message = f"the key {shown(key.value)} is not known"
                self._findings.problem(key.line, key.column, message, f"did you mean '{meant}'?")
            elif key.value == "pip":
                hint = "under 'dependencies:', write '- pip:' and indent the list below it"
                self._findings.problem(key.line, key.column, "'pip' does not stand at the top level", hint)
            else:
                self._findings.warn(key.line, key.column, f"the key {shown(key.value)} is not known and has no effect")
        if "dependencies" in found or has_misspelling:
            return
        if found & {"channels", "variables"}:
            self._findings.warn(root.line, root.column, "there is no key 'dependencies': the environment is empty")
        else:
            message = "this is not an environment file: it has no key 'dependencies'"
            self._findings.problem(root.line, root.column, message, "for example 'dependencies: [python=3.11]'")

    def _read_name(self, node: Node) -> None:
        if not isinstance(node, Scalar):
            self._findings.problem(node.line, node.column, "'name' is not a word", "name: my-environment")
            return
        label = "".join(char if char.isprintable() else " " for char in node.value).strip()
        self.label = label[:LABEL_MAX_CHARS].rstrip() or None

    def _scalars(self, node: Node, key: str, hint: str) -> list[Scalar]:
        """Return the items of a list of words, noting those that are none."""
        if not isinstance(node, Sequence):
            self._findings.problem(node.line, node.column, f"'{key}' is not a list", hint)
            return []
        found = []
        for item in node.items:
            if not isinstance(item, Scalar):
                self._findings.problem(item.line, item.column, f"an item of '{key}' is not a word", hint)
            elif item.is_null:
                self._findings.problem(item.line, item.column, f"an item of '{key}' is empty", "remove it")
            else:
                self._refuse_selector(item, f"an item of '{key}'")
                found.append(item)
        return found

    def _read_channels(self, node: Node) -> None:
        for item in self._scalars(node, "channels", "channels: [conda-forge]"):
            try:
                name, had_credentials = channel(_COMMENT.sub("", item.value))
            except Refusal as refusal:
                self._findings.refusal(item.line, item.column, refusal)
                continue
            self._note_credentials(item, had_credentials=had_credentials)
            if name == "nodefaults":
                self.has_nodefaults = True
            else:
                self.channels.setdefault(name)

    def _read_platforms(self, node: Node) -> None:
        for item in self._scalars(node, "platforms", "platforms: [linux-64]"):
            try:
                self.platforms.add(platform(_COMMENT.sub("", item.value).strip()))
            except Refusal as refusal:
                self._findings.refusal(item.line, item.column, refusal)

    def _read_variables(self, node: Node) -> None:
        if not isinstance(node, Mapping):
            self._findings.problem(node.line, node.column, "'variables' is not a mapping", "variables: {NAME: value}")
            return
        for key, value in node.entries:
            self._refuse_selector(value, "a variable")
            if not _VARIABLE.fullmatch(key.value):
                message = f"{shown(key.value)} is not a variable's name"
                self._findings.problem(key.line, key.column, message, "letters, digits and '_', no digit first")
            elif not isinstance(value, Scalar):
                self._findings.problem(value.line, value.column, f"the value of {key.value} is not text")
            elif value.is_null:
                message = f"the variable {key.value} has no value"
                self._findings.problem(value.line, value.column, message, f'for an empty one write {key.value}: ""')
            elif _NO_VALUE.search(value.value):
                message = f"the value of {key.value} has a character that no variable can have"
                self._findings.problem(value.line, value.column, message)
            else:
                self.variables[key.value] = value.value
                self.variable_spans.append((value.start, value.end))

    def _read_dependencies(self, node: Node) -> None:
        if not isinstance(node, Sequence):
            hint = "write a list: '- python=3.11'"
            self._findings.problem(node.line, node.column, "'dependencies' is not a list", hint)
            return
        self._refuse_flow_selectors(node)
        for item in node.items:
            if isinstance(item, Scalar):
                self._read_conda(item)
            elif isinstance(item, Mapping):
                self._read_group(item)
            else:
                hint = "write its items one level up"
                self._findings.problem(item.line, item.column, "a list stands within 'dependencies'", hint)

    def _read_conda(self, item: Scalar) -> None:
        if not self._is_text(item, "a requirement"):
            return
        text, platforms = self._with_selector(item)
        try:
            found, had_credentials = match_spec(text)
        except Refusal as refusal:
            self._findings.refusal(item.line, item.column, refusal)
            return
        self._note_credentials(item, had_credentials=had_credentials)
        self.conda.add(CondaRequirement(found, platforms))

    def _is_text(self, item: Scalar, what: str) -> bool:
        """Note an item that YAML reads as something else than text."""
        if item.is_null or not item.value.strip():
            self._findings.problem(item.line, item.column, f"{what} is empty", "remove it")
        elif item.is_number:
            message = f"{shown(item.value)} is a number, not {what}"
            self._findings.problem(item.line, item.column, message, "name a package, as in python=3.10")
        elif item.is_boolean:
            message = f"YAML reads {item.value} as true or false, not as {what}"
            self._findings.problem(item.line, item.column, message, f"write '{item.value}' in quotes")
        else:
            return True
        return False

    def _read_group(self, item: Mapping) -> None:
        """Read a mapping in the list: ``pip:``, or something that is refused."""
        if not item.entries:
            self._findings.problem(item.line, item.column, "a requirement is empty", "remove it")
        for key, value in item.entries:
            if key.value == "pip":
                self._read_pip(key, value)
            else:
                message, hint = _unknown_group(key.value, value)
                self._findings.problem(key.line, key.column, message, hint)

    def _read_pip(self, key: Scalar, node: Node) -> None:
        self._pip_key = self._pip_key or key
        if isinstance(node, Scalar) and node.is_null:
            return
        if not isinstance(node, Sequence):
            hint = (
                f"for a version of pip write '- pip={node.value}'" if isinstance(node, Scalar) else "- pip: [requests]"
            )
            self._findings.problem(node.line, node.column, "'pip' is not a list", hint)
            return
        if not node.is_flow:
            self._refuse_selector(key, "the key 'pip'")
        self._refuse_flow_selectors(node)
        for item in node.items:
            if not isinstance(item, Scalar):
                hint = "put it in quotes if it is a requirement"
                self._findings.problem(item.line, item.column, "an item of 'pip:' is not text", hint)
            elif self._is_text(item, "an item of 'pip:'"):
                text, platforms = self._with_selector(item)
                self.pip.take(text, platforms, item.line, item.column)

    def _with_selector(self, item: Scalar) -> tuple[str, tuple[str, ...]]:
        """Return an item's text without comment, and the words of its selector."""
        found = _COMMENT.search(item.value) if "\n" not in item.value else None
        text = item.value[: found.start()] if found else item.value
        comments = [
            comment for comment in (found.group() if found else "", self._document.comment_after(item)) if comment
        ]
        words: set[str] = set()
        for comment in comments:
            try:
                platforms = selected(comment)
            except Refusal as refusal:
                self._findings.refusal(item.line, item.column, refusal)
                continue
            words.update(platforms)
            if not platforms and resembles_selector(comment):
                self._findings.warn(item.line, item.column, f"{shown(comment.strip())} is taken for a mere comment")
        return text.strip(), tuple(sorted(words))

    def _refuse_selector(self, node: Node, where: str) -> None:
        try:
            platforms = selected(self._document.comment_after(node))
        except Refusal:
            platforms = ("?",)
        if platforms:
            self._findings.problem(node.line, node.column, f"a platform selector does not go with {where}")

    def _refuse_flow_selectors(self, node: Sequence) -> None:
        if not node.is_flow:
            return
        for comment in self._document.comments_within(node):
            try:
                platforms = selected(comment)
            except Refusal:
                platforms = ("?",)
            if platforms:
                message = "a platform selector stands behind a list in brackets"
                self._findings.problem(node.line, node.column, message, "write one item a line, each with its '-'")
                return

    def _note_credentials(self, item: Scalar, *, had_credentials: bool) -> None:
        if had_credentials:
            self._findings.has_credentials = True
            self._findings.warn(item.line, item.column, CREDENTIALS, CREDENTIALS_HINT)

    def _add_pip(self) -> None:
        """Add ``pip`` where a pip section needs it, as conda does."""
        key = self._pip_key
        if key is None or not self.pip.requirements() or any(package_name(it.match_spec) == "pip" for it in self.conda):
            return
        self.conda.add(CondaRequirement("pip"))
        self._findings.warn(key.line, key.column, "'pip' is not among the requirements, and is added for this section")


def _unknown_group(key: str, value: Node) -> tuple[str, str]:
    if key.startswith("sel("):
        system = key[4:].rstrip(")")
        return f"{shown(key)} is not read by conda", f"write the requirement with the comment '# [{system}]'"
    if key in ("npm", "cran", "gem", "cargo"):
        return f"{shown(key)} is not a package manager that envmgr has", "only 'pip:' is"
    if isinstance(value, Scalar):
        version = "" if value.is_null else f"={value.value}"
        return f"{shown(key)} stands here as a mapping, with ':'", f"write '- {key}{version}'"
    return f"{shown(key)} is not known within 'dependencies'", "only 'pip:' is"
