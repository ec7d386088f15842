"""Reads the arguments of conda's commands; on the way of every call, so without argparse (10 ms)."""

from envmgr.errors import EnvmgrError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COMMON = {"--json": "", "-q": "quiet", "--quiet": "", "-v": "", "-vv": "", "-vvv": "", "--verbose": "", "--debug": ""}
"""Options of every command, and what they are kept as; those kept as nothing change nothing here."""
TARGET = {"-n": "name=", "--name": "name=", "-p": "prefix=", "--prefix": "prefix="}
"""Which environment. What ends in ``=`` takes a value."""


class NotAnsweredError(EnvmgrError):
    """The home does not answer this call itself."""


class Words:
    """The options that were given, and the other words in their order."""

    __slots__ = ("is_json", "rest", "values")

    def __init__(self, is_json: bool, values: "dict[str, list[str]]", rest: "list[str]") -> None:
        self.is_json = is_json
        self.values = values
        self.rest = rest

    @property
    def is_quiet(self) -> bool:
        return "quiet" in self.values

    def has(self, option: str) -> bool:
        return option in self.values

    def one(self, option: str) -> "str | None":
        """Return the last value of an option, as conda takes it, or ``None``."""
        return self.values[option][-1] if option in self.values else None


def read(arguments: "Sequence[str]", options: "Mapping[str, str]", *, is_command: bool = False) -> Words:
    """Tell options (`options`: written → kept as) and other words apart; `NotAnsweredError` for an unknown option.

    With `is_command`, everything from the first other word on belongs to it.
    """
    known = {**COMMON, **options}
    values: dict[str, list[str]] = {}
    rest: list[str] = []
    waiting = list(arguments)
    while waiting:
        word = waiting.pop(0)
        if word == "--" or (is_command and not word.startswith("-")):
            rest += waiting if word == "--" else [word, *waiting]
            break
        if not word.startswith("-") or word == "-":
            rest.append(word)
            continue
        option, equals, value = word.partition("=")
        if option not in known and not word.startswith("--") and known.get(word[:2], "").endswith("="):
            option, equals, value = word[:2], "=", word[2:]  # -nNAME
        if option not in known:
            raise NotAnsweredError(f"option {option}")
        kept = known[option]
        if kept.endswith("="):
            if not equals:
                if not waiting:
                    raise UsageError(f"{option} wants a value")
                value = waiting.pop(0)
            values.setdefault(kept[:-1], []).append(value)
        else:
            values.setdefault(kept or option.strip("-"), []).append("")
    return Words("json" in values, values, rest)
