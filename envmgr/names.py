"""What a name, an alias and a build id look like, checked before any of them touches a path.

* An environment's *name* is ``env-`` and the first 16 hexadecimal digits of its spec's SHA-256 (see `envmgr.spec`).
* An *alias* is a human's name for one: 1 to 128 of ``A-Z a-z 0-9 . _ + -``, beginning with a letter or a digit, and
  not of the shape of a name (``env-`` followed by hexadecimal digits only) nor of a file (ending in ``.yml`` or
  ``.yaml``), so that the three never need telling apart.
* A *build id* is one try at making a prefix: ``<first 12 digits of the spec's digest>-<number>``.

This module is on the hot path: it imports only the errors, and tests characters instead of importing ``re``.
"""

from envmgr.errors import UsageError

_HEX = frozenset("0123456789abcdef")
_ALNUM = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_ALIAS = _ALNUM | frozenset("._+-")
_PREFIX = "env-"
_NAME_DIGITS = 16
_BUILD_DIGITS = 12
ALIAS_MAX_CHARS = 128
CANONICAL_VERSION = 1
"""Which canonical text names are made from (`envmgr.spec`); part of the key under which a seen document is kept."""


class EnvName(str):
    """An environment's name that has passed `is_name`; made by `environment_name` or `name_of_digest` only."""

    __slots__ = ()


class Alias(str):
    """An alias that has passed `alias`."""

    __slots__ = ()


class BuildId(str):
    """The id of one build, which is also its directory's name below ``builds/``."""

    __slots__ = ()


def is_name(text: str) -> bool:
    """Tell whether `text` has the exact shape of an environment's name."""
    return (
        len(text) == len(_PREFIX) + _NAME_DIGITS and text.startswith(_PREFIX) and _HEX.issuperset(text[len(_PREFIX) :])
    )


def is_alias(text: str) -> bool:
    """Tell whether `text` may be an alias."""
    return (
        0 < len(text) <= ALIAS_MAX_CHARS
        and text[0] in _ALNUM
        and _ALIAS.issuperset(text)
        and not _resembles_name(text)
        and not text.endswith((".yml", ".yaml"))
    )


def _resembles_name(text: str) -> bool:
    lowered = text.lower()
    return lowered.startswith(_PREFIX) and _HEX.issuperset(lowered[len(_PREFIX) :])


def is_build_id(text: str) -> bool:
    """Tell whether `text` has the shape of a build id."""
    digits, dash, number = text.partition("-")
    return (
        bool(dash)
        and len(digits) == _BUILD_DIGITS
        and _HEX.issuperset(digits)
        and number.isascii()
        and number.isdigit()
    )


def environment_name(text: str) -> EnvName:
    """Check `text` and return it as a name; raise `UsageError`."""
    if not is_name(text):
        raise UsageError(f"{text!r} is not an environment's name", hint="a name is 'env-' and 16 hexadecimal digits")
    return EnvName(text)


def name_of_digest(digest: str) -> EnvName:
    """Return the name that belongs to the full hexadecimal SHA-256 of a canonical text."""
    return EnvName(_PREFIX + digest[:_NAME_DIGITS])


def alias(text: str) -> Alias:
    """Check `text` and return it as an alias; raise `UsageError` saying what is wrong with it."""
    if is_alias(text):
        return Alias(text)
    if _resembles_name(text):
        raise UsageError(f"{text!r} cannot be an alias: it looks like an environment's name")
    if text.endswith((".yml", ".yaml")):
        raise UsageError(f"{text!r} cannot be an alias: it looks like a file")
    raise UsageError(
        f"{text[: ALIAS_MAX_CHARS + 1]!r} cannot be an alias",
        hint=f"1 to {ALIAS_MAX_CHARS} letters, digits, '.', '_', '+', '-', beginning with a letter or a digit",
    )


def build_id(digest: str, number: int) -> BuildId:
    """Return the id of the `number`-th build of the spec with this full digest."""
    return BuildId(f"{digest[:_BUILD_DIGITS]}-{number}")
