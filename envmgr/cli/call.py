"""What a command is given: which store, how to answer, and how its words are read.

How a word is told apart: with ``/`` or ending in ``.yml`` or ``.yaml`` it is a file, ``-`` is standard input, and
everything else is a name or an alias, never a file that happens to lie in the working directory.

The manager and the parser are imported when they are asked for: ``shell-hook`` and ``alias list`` need neither.
"""

# ruff: noqa: PLC0415 - the manager and the parser cost more than the commands that do without them

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from envmgr import client, ready
from envmgr.cli import output, progress
from envmgr.errors import EnvironmentNotFound, InvalidSpec, UsageError
from envmgr.names import is_alias

if TYPE_CHECKING:
    import typer

    from envmgr.events import Reporter
    from envmgr.manager.manager import Manager
    from envmgr.model import Spec
    from envmgr.names import EnvName
    from envmgr.ports import Administration, Backend
    from envmgr.remote.manager import RemoteManager
    from envmgr.store.layout import Layout

_LARGEST_INPUT_BYTES = 64 << 20


@dataclass(slots=True)
class Globals:
    """What stands before the command: the root that was asked for; and the backend of whoever embeds the commands."""

    root: str | None = None
    is_debug: bool = False
    backend: Backend | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A spec as it was read: its bytes, what messages call it, and what it says."""

    data: bytes
    source: str
    spec: Spec


class Call:
    """One command being run."""

    def __init__(self, context: typer.Context, *, is_json: bool = False, is_quiet: bool = False) -> None:
        given: Globals = context.obj
        self.root = ready.default_root() if given.root is None else os.path.abspath(given.root)
        self.is_json = is_json
        self.is_quiet = is_quiet
        self.is_debug = given.is_debug
        self._backend = given.backend

    # -------------------------------------------------------------------------------------------------------- answers

    def answer(self, record: Mapping[str, object], text: Callable[[], None] | str = "") -> None:
        """Give the command's one answer: `record` with ``--json``, else `text` (or what it writes)."""
        if self.is_json:
            output.write_record(record)
        elif isinstance(text, str):
            output.write_text(text)
        else:
            text()

    def say(self, words: str) -> None:
        """Say something to people, unless they asked for quiet."""
        if not self.is_quiet:
            output.say(f"envmgr: {words}")

    def progress(self) -> AbstractContextManager[Reporter]:
        """Show progress for the length of a block."""
        return progress.reporter(is_quiet=self.is_quiet, is_debug=self.is_debug)

    # ---------------------------------------------------------------------------------------------------------- store

    def has_store(self) -> bool:
        """Tell whether there is a store at the root."""
        return os.path.exists(f"{self.root}/owner")

    def layout(self) -> Layout:
        """Return the layout of the store, or that of an empty one; for looking only."""
        from envmgr.store import layout, opening

        root = Path(self.root)
        return opening.open_for_reading(root) or layout.Layout(root)

    def manager(self, *, writable: bool) -> Manager:
        """Return the manager of the store itself; a writable one makes the store if there is none."""
        from envmgr import wiring

        manager = wiring.manager(self.root, writable=writable, backend=self._backend)
        self._say_warnings(manager)
        return manager

    def front(self) -> Manager | RemoteManager:
        """Return what changes the store: its daemon, or for its owner the store itself, made if there is none."""
        from envmgr import wiring
        from envmgr.manager.manager import Manager

        front = wiring.front(self.root, backend=self._backend)
        if isinstance(front, Manager):
            self._say_warnings(front)
        return front

    def front_of_existing(self, word: str) -> tuple[Manager | RemoteManager, EnvName]:
        """Return what changes the store, and the name that `word` stands for; never makes a store."""
        name = self.name(word)
        if not self.has_store():
            raise self.not_found(word)
        return self.front(), name

    def administration(self) -> AbstractContextManager[Administration]:
        """Give what administers the cluster: the store's daemon where one answers, else ZooKeeper itself."""
        from envmgr import wiring

        return wiring.administration(self.root)

    def _say_warnings(self, manager: Manager) -> None:
        for warning in manager.context.settings.warnings:
            self.say(f"warning: {warning}")

    # ---------------------------------------------------------------------------------------------------------- words

    def read(self, word: str, *, most_bytes: int = _LARGEST_INPUT_BYTES) -> tuple[bytes, str]:
        """Return the bytes of a file or of standard input (of which at most so many; -1: all), and what to call it."""
        if word != "-":
            # A Path: a word with a line feed in it is a file's name here, never a spec's text.
            data, source = client.read(Path(word))
            return data or b"", source
        if sys.stdin is None:
            raise UsageError("standard input is closed")
        return sys.stdin.buffer.read(most_bytes), "<stdin>"

    def document(self, word: str) -> Document:
        """Read and parse a spec."""
        data, source = self.read(word)
        try:
            spec = client.parse(Path(word), data, source)
        except InvalidSpec as error:
            error.fields["source"] = source
            raise
        return Document(data, source, spec)

    def spec(self, word: str) -> Document:
        """Return the document of a command that is about it, and say its warnings; other words are usage errors."""
        if is_file(word):
            document = self.document(word)
            for warning in () if self.is_quiet else document.spec.warnings:
                output.say(output.problem_line(document.source, warning, "warning: "))
            return document
        raise UsageError(
            f"{word!r} is not a spec's file", hint=_file_hint(word) or "a file has / in it or ends in .yml or .yaml"
        )

    def name(self, word: str) -> EnvName:
        """Return the name that a file, a name or an alias stands for; nothing need be there for a file or a name.

        Raises `EnvironmentNotFound` for an alias that is not set, `UsageError` for a word that can be none of these.
        """
        if is_file(word):
            return self.document(word).spec.name
        try:
            name = ready.resolve_alias(self.root, word)
        except UsageError as error:
            hint = _file_hint(word)
            raise UsageError(
                error.message if hint is None else f"{word!r} is no name and no alias", hint=hint
            ) from None
        if name is None:
            raise self.not_found(word)
        return name

    def not_found(self, word: str) -> EnvironmentNotFound:
        """Return the error for a word that leads nowhere in this store."""
        if is_file(word):
            return EnvironmentNotFound(
                f"the environment of {word} is not in {self.root}", hint=f"envmgr create {shlex.quote(word)} makes it"
            )
        name = ready.resolve_alias(self.root, word) if is_alias(word) else None
        if name is not None:
            return EnvironmentNotFound(
                f"{word} stands for {name}, which is not in {self.root}",
                hint="envmgr create FILE makes it again from its spec",
            )
        return EnvironmentNotFound(
            f"there is no environment {word!r} in {self.root}",
            hint=_file_hint(word) or "envmgr list shows what is there",
        )


def is_file(word: str) -> bool:
    """Tell whether a word names a file or standard input (it need not exist)."""
    return word == "-" or client.is_file(word)


def _file_hint(word: str) -> str | None:
    if "/" not in word and word and os.path.lexists(word):
        return f"to name the file of that name, write ./{word}"
    return None
