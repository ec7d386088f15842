"""The items of ``pip:`` and the lines of the requirements files that they include.

An item is one line of a requirements file, as pip reads it: a requirement with options of its own (``--hash=``), or
options. ``-r`` and ``-c`` are replaced by the content of the file, so that the name covers it; the files are read
through the function that the caller passes. ``-e git+…`` is taken as the same requirement without ``-e``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from typing import NamedTuple

from envmgr.model import PipOption, PipRequirement
from envmgr.spec.channels import CREDENTIALS, CREDENTIALS_HINT
from envmgr.spec.pip_options import Option, find_option, values
from envmgr.spec.pip_requirements import Requirement, requirement
from envmgr.spec.problems import Findings, Refusal, shown
from envmgr.spec.urls import is_url

ReadInclude = Callable[[str], bytes]
"""Returns the bytes of a requirements file, whose path is relative to the document's directory; raises OSError."""

MAX_INCLUDES = 32
MAX_INCLUDE_BYTES = 1 << 20
_COMMENT = re.compile(r"(?:^|\s)#.*")
_OWN_OPTIONS = re.compile(r"\s--?[A-Za-z]")
_HASH = re.compile(r"(?:sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128})")
_SINGLE = ("--index-url",)


def reader_of(includes: Mapping[str, str]) -> ReadInclude:
    """Return the function that reads included files that were read before, as ``Spec.includes`` keeps them."""

    def read_include(path: str) -> bytes:
        try:
            return includes[path].encode()
        except KeyError:
            raise FileNotFoundError(2, "it was not sent along", path) from None

    return read_include


class Place(NamedTuple):
    """Where a line stands: in the document, and perhaps in an included file there (`within`, for messages)."""

    line: int
    column: int
    within: str = ""


class PipSection:
    """Collects all ``pip:`` lists of one document."""

    def __init__(self, findings: Findings, read_include: ReadInclude | None) -> None:
        self._findings = findings
        self._read_include = read_include
        self._requirements: dict[tuple[str, tuple[str, ...]], set[str]] = {}
        self._constraints: set[str] = set()
        self._options: dict[PipOption, None] = {}
        self._included = 0
        self.includes: dict[str, str] = {}
        """The content of each included file, by its path as `ReadInclude` gets it; read once."""

    def requirements(self) -> tuple[PipRequirement, ...]:
        """Return the requirements, sorted; those that differ in their hashes only are joined."""
        return tuple(
            PipRequirement(text, platforms, tuple(sorted(hashes)))
            for (text, platforms), hashes in sorted(self._requirements.items())
        )

    def constraints(self) -> tuple[PipRequirement, ...]:
        """Return the constraints, sorted."""
        return tuple(PipRequirement(text) for text in sorted(self._constraints))

    def options(self) -> tuple[PipOption, ...]:
        """Return the options in the order of the document, each once."""
        return tuple(self._options)

    def take(self, text: str, platforms: tuple[str, ...], line: int, column: int) -> None:
        """Take one item of the document."""
        place = Place(line, column)
        lines = [bare for bare in (_COMMENT.sub("", part).strip() for part in text.split("\n")) if bare]
        if not lines:
            self._findings.problem(line, column, "an item of 'pip:' is empty", "remove it")
        for bare in lines:
            self._take_line(bare, platforms, place, (), is_constraint=False)

    def _take_line(
        self, text: str, platforms: tuple[str, ...], place: Place, files: tuple[str, ...], *, is_constraint: bool
    ) -> None:
        try:
            if text.startswith("-"):
                self._take_options(text, platforms, place, files, is_constraint=is_constraint)
            else:
                self._take_requirement(text, platforms, place, is_constraint=is_constraint)
        except Refusal as refusal:
            self._findings.problem(place.line, place.column, place.within + refusal.message, refusal.hint)

    def _take_requirement(self, text: str, platforms: tuple[str, ...], place: Place, *, is_constraint: bool) -> None:
        hashes: set[str] = set()
        if own := _OWN_OPTIONS.search(text):
            text, options = text[: own.start()], text[own.start() :]
            hashes = _hashes(_tokens(options))
        found = requirement(text)
        self._warn_of_credentials(found, place)
        if not is_constraint:
            self._requirements.setdefault((found.text, platforms), set()).update(hashes)
            return
        if found.name is None or "[" in found.text.partition(";")[0].partition("@")[0]:
            raise Refusal(f"{shown(text)} is not a constraint", "a constraint names a package, without extras")
        if hashes:
            raise Refusal("hashes in a constraints file are not read", "put them behind the requirements")
        self._constraints.add(found.text)

    def _take_options(
        self, text: str, platforms: tuple[str, ...], place: Place, files: tuple[str, ...], *, is_constraint: bool
    ) -> None:
        tokens = _tokens(text)
        while tokens:
            if not tokens[0].startswith("-") or tokens[0] == "-":
                raise Refusal(f"{shown(tokens[0])} does not belong behind an option", "one requirement for each item")
            option, value = find_option(tokens)
            if option.flag == "--editable" and is_constraint:
                raise Refusal("an editable requirement is not a constraint")
            if option.flag == "--editable":
                self._take_editable(value, platforms, place)
            elif platforms:
                raise Refusal(f"a platform selector does not go with pip's option {option.flag}")
            elif option.flag == "--hash":
                raise Refusal("'--hash' stands behind a requirement, not alone")
            elif option.fate == "content":
                is_bound = is_constraint or option.flag == "--constraint"
                self._include(option, value, place, files, is_constraint=is_bound)
            else:
                self._keep(option, value, place)

    def _take_editable(self, value: str, platforms: tuple[str, ...], place: Place) -> None:
        if "{" in value and "${" not in value:
            raise Refusal(f"{shown(value)} has a placeholder", "fill it in before envmgr reads the document")
        if not value.startswith("git+") and " @ " not in value and not is_url(value):
            raise Refusal(
                f"the editable requirement {shown(value)} is a local path",
                "what lies there is not in the document: publish it, or name its repository with git+https://…",
            )
        found = requirement(value)
        self._warn_of_credentials(found, place)
        self._requirements.setdefault((found.text, platforms), set())
        self._findings.warn(
            place.line, place.column, f"{place.within}{shown(found.text)} is installed, but not as editable"
        )

    def _keep(self, option: Option, value: str, place: Place) -> None:
        kept, had_credentials = values(option, value)
        if had_credentials:
            self._credentials(place)
        for item in kept:
            other = next((it for it in self._options if it.flag in _SINGLE and it.flag == item.flag), item)
            if other != item:
                raise Refusal(
                    f"a second {item.flag} names another index than {shown(other.value)}", "use --extra-index-url"
                )
            self._options[item] = None

    def _include(self, option: Option, path: str, place: Place, files: tuple[str, ...], *, is_constraint: bool) -> None:
        path = path.removeprefix("file:")
        if is_url(path) or path.startswith("//"):
            raise Refusal(f"{option.flag} {shown(path)} is not a file beside the document", "copy it there")
        if files and not path.startswith("/"):
            path = _joined(files[-1], path)
        if self._read_include is None:
            raise Refusal(
                f"{option.flag} {shown(path)} cannot be read from here",
                "give envmgr the document as a file, or write the requirements into the document",
            )
        if path in files:
            raise Refusal(f"{shown(path)} includes itself")
        self._included += 1
        if self._included > MAX_INCLUDES:
            raise Refusal(f"more than {MAX_INCLUDES} files are included")
        for number, line in _logical_lines(self._content(path)):
            within = place._replace(within=f"{path}, line {number}: ")
            self._take_line(line, (), within, (*files, path), is_constraint=is_constraint)

    def _content(self, path: str) -> str:
        if path in self.includes or self._read_include is None:
            return self.includes.get(path, "")
        try:
            content = self._read_include(path)
        except OSError as error:
            raise Refusal(f"{shown(path)} cannot be read: {error.strerror or error}") from error
        if len(content) > MAX_INCLUDE_BYTES:
            raise Refusal(f"{shown(path)} is larger than the limit of {MAX_INCLUDE_BYTES} bytes")
        try:
            return self.includes.setdefault(path, content.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise Refusal(f"{shown(path)} is not UTF-8", "save it as UTF-8") from error

    def _warn_of_credentials(self, found: Requirement, place: Place) -> None:
        if found.had_credentials:
            self._credentials(place)

    def _credentials(self, place: Place) -> None:
        self._findings.has_credentials = True
        self._findings.warn(place.line, place.column, place.within + CREDENTIALS, CREDENTIALS_HINT)


def _tokens(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise Refusal(f"the quotes in {shown(text)} do not match") from error


def _hashes(tokens: list[str]) -> set[str]:
    found: set[str] = set()
    while tokens:
        if not tokens[0].startswith("-"):
            raise Refusal(f"{shown(tokens[0])} does not belong behind a requirement's option")
        option, value = find_option(tokens)
        if option.flag != "--hash":
            raise Refusal(f"pip's option {option.flag} stands behind a requirement", "give it an item of its own")
        if not _HASH.fullmatch(value.lower()):
            raise Refusal(f"{shown(value)} is not a hash", "--hash=sha256:… with 64 hexadecimal digits")
        found.add(value.lower())
    return found


def _joined(file: str, path: str) -> str:
    """Return `path`, which is relative to the directory of `file`, relative to where `file` is relative to."""
    parts = file.split("/")[:-1]
    for part in path.split("/"):
        if part == ".." and parts and parts[-1] not in ("", ".."):
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Return the numbered lines of a requirements file: continued ones joined, comments and blanks left out."""
    found: list[tuple[int, str]] = []
    pending, start = "", 0
    for number, line in enumerate([*text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), ""], 1):
        start = start or number
        if line.endswith("\\") and not line.lstrip().startswith("#"):
            pending += line[:-1]
            continue
        bare = _COMMENT.sub("", pending + line).strip()
        if bare:
            found.append((start, bare))
        pending, start = "", 0
    return found
