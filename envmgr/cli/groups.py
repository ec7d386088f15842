"""How Typer is told to stay quick: texts as they are, and commands of a group that are made when they are asked for.

Newer versions of Typer validate every value with a library that takes 0.06 s to import. All values here are texts and
flags, which need no conversion, so a text is handed on as it is; everything else still goes Typer's own way. Help and
usage errors are plain text: Rich would cost as much again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import typer
import typer.main
from typer.core import TyperCommand, TyperGroup

TyperUsageError = cast("type[typer.BadParameter]", typer.BadParameter.__bases__[0])
"""The parent of all usage errors in click, which newer versions of Typer carry a copy of."""


class _TextsAsTheyAre:
    """A command or group whose parameters hand a text on without validating it, and do nothing for a missing value."""

    def get_params(self, ctx: Any) -> list[Any]:
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]  # of the class that this is mixed into
        for parameter in parameters:
            if "process_value" not in vars(parameter):
                parameter.process_value = _quick(parameter)
        return parameters

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            rest: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]  # of the class that this is mixed into
        except TyperUsageError as error:
            error.ctx = error.ctx or ctx  # of an option without its value, click does not tell whose it is
            raise
        return rest


def _quick(parameter: Any) -> Callable[[Any, Any], Any]:
    process = parameter.process_value

    def process_value(context: Any, value: Any) -> Any:
        is_text = isinstance(value, str) or (isinstance(value, (tuple, list)) and bool(value))
        return value if is_text or (value is None and not parameter.required) else process(context, value)

    return process_value


class Command(_TextsAsTheyAre, TyperCommand):
    """One command."""


class Group(_TextsAsTheyAre, TyperGroup):
    """A group of commands."""


def group(help_text: str, **facts: Any) -> typer.Typer:
    """Return a group that `Command` commands are added to."""
    return typer.Typer(cls=Group, help=help_text, rich_markup_mode=None, **facts)


def later(help_text: str, make: Callable[[], typer.Typer]) -> typer.Typer:
    """Return a group whose commands are those of `make`, which is called when one is asked for or listed."""

    class _Later(Group):
        def _made(self) -> None:
            if not self.commands:
                made: Any = typer.main.get_command(make())
                self.commands.update(made.commands)

        def list_commands(self, ctx: Any) -> list[str]:
            self._made()
            return super().list_commands(ctx)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            self._made()
            return super().get_command(ctx, cmd_name)

    return typer.Typer(cls=_Later, help=help_text, rich_markup_mode=None)
