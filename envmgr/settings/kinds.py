"""What a setting's value may look like, in a TOML file and as the text of an environment variable.

A `Kind` reads both and raises `ValueError` for what does not fit; the error's text, where it has one, says more than
`Kind.name` does. No error repeats a value: it may hold a password.

Text forms: a list is comma-separated; a table is ``key=value,key=value``, where an item without ``=`` continues the
one before it; a table of lists separates the values of one key with ``|``. An empty text is an empty list, an empty
table, or no value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
Strings = tuple[str, ...]

CREDENTIAL = "credential:"
"""Before a name: a file that systemd hands to the service (``LoadCredential=``); see `envmgr.settings.sources`."""

_LARGEST = 1e15
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
_DURATION_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE_UNITS = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
_SIZE_UNITS |= {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_CLASS_CHARS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._+-")


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """How the values of a setting are read; `name` completes the sentence "expected …"."""

    name: str
    from_toml: Callable[[object], T]
    from_text: Callable[[str], T]
    is_table: bool = False
    """Whether sources are joined entry by entry; other values replace the ones before them."""
    is_path: bool = False
    """Whether a leading ``~/`` is the home directory, and `CREDENTIAL` a directory of the service's."""


# ---------------------------------------------------------------------------------------------------------- one value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("")
    return value


def _bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("")
    return value


def as_bool(text: str) -> bool:
    """Read the usual words for yes and no."""
    word = text.strip().lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ValueError("")


def _optional(read: Callable[[str], str]) -> Callable[[object], str | None]:
    def from_toml(value: object) -> str | None:
        text = _text(value).strip()
        return read(text) if text else None

    return from_toml


def _url(text: str) -> str:
    scheme, found, rest = text.partition("://")
    if not found or scheme not in ("http", "https", "file") or not rest or any(char <= " " for char in text):
        raise ValueError("")
    return text.rstrip("/")


def _address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise ValueError("")
    return text


def _tree_path(text: str) -> str:
    """Read a path in ZooKeeper's tree, which is not the tree's root itself."""
    parts = text.split("/")
    if parts[0] or len(parts) < 2 or not all(part.isprintable() and part not in ("", ".", "..") for part in parts[1:]):
        raise ValueError("")
    return text


def _path(text: str) -> str:
    if not text.startswith(("/", "~/")) or "\0" in text:
        raise ValueError("")
    return text


def _file(text: str) -> str:
    name = text[len(CREDENTIAL) :] if text.startswith(CREDENTIAL) else None
    if name is None:
        return _path(text)
    if not name or name in (".", "..") or "/" in name or not name.isprintable():
        raise ValueError("")
    return text


def _place(text: str) -> str:
    return _url(text) if "://" in text else _path(text)


def _machine_class(text: str) -> str:
    if (text and not text[0].isalpha()) or not _CLASS_CHARS.issuperset(text) or len(text) > 64:
        raise ValueError("")
    return text


def time_text(value: object) -> str:
    """Return a date (the end of that day, UTC) or an RFC 3339 time as an RFC 3339 time in UTC.

    `value` is text, or what TOML made of an unquoted date; a time without an offset is UTC.
    """
    import datetime as dt  # noqa: PLC0415 - a rare setting; the module costs a start-up

    if isinstance(value, str):
        text = value.strip()
        # Python 3.10 reads neither "Z" nor a space-separated offset.
        text = text[:-1] + "+00:00" if text[-1:] in ("Z", "z") else text
        value = dt.date.fromisoformat(text) if len(text) == 10 else dt.datetime.fromisoformat(text)
    if isinstance(value, dt.datetime):
        moment = value if value.tzinfo else value.replace(tzinfo=dt.timezone.utc)
    elif isinstance(value, dt.date):
        moment = dt.datetime(value.year, value.month, value.day, 23, 59, 59, tzinfo=dt.timezone.utc)
    else:
        raise ValueError("")
    return moment.astimezone(dt.timezone.utc).replace(microsecond=0).isoformat().replace("+00:00", "Z")


def _optional_time(value: object) -> str | None:
    if value == "":
        return None
    try:
        return time_text(value)
    except (ValueError, OverflowError) as error:
        raise ValueError("") from error


BOOL: Kind[bool] = Kind("true or false", _bool, as_bool)
URL_VALUE: Kind[str] = Kind("an http, https or file URL", lambda value: _url(_text(value)), _url)
OPTIONAL_URL: Kind[str | None] = Kind(URL_VALUE.name, _optional(_url), _optional(_url))
OPTIONAL_TEXT: Kind[str | None] = Kind("a text", _optional(str.strip), _optional(str.strip))
OPTIONAL_ADDRESS: Kind[str | None] = Kind("host:port", _optional(_address), _optional(_address))
TREE_PATH: Kind[str] = Kind("a path in ZooKeeper, such as /envmgr", lambda value: _tree_path(_text(value)), _tree_path)
OPTIONAL_PATH: Kind[str | None] = Kind(
    "an absolute path, or credential:NAME", _optional(_file), _optional(_file), is_path=True
)
MACHINE_CLASS: Kind[str] = Kind(
    "a machine class such as linux-64+cuda12", lambda value: _machine_class(_text(value)), _machine_class
)
OPTIONAL_TIME: Kind[str | None] = Kind("a date or an RFC 3339 time", _optional_time, _optional_time)


# ----------------------------------------------------------------------------------------------------------- numbers


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < _LARGEST:
        raise ValueError("")
    return float(value)


def integer(minimum: int, maximum: int) -> Kind[int]:
    """Make the kind of a whole number in a range."""

    def from_toml(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise ValueError("")
        return value

    return Kind(f"a whole number from {minimum} to {maximum}", from_toml, lambda text: from_toml(int(text)))


def _with_unit(text: str, units: Mapping[str, float]) -> float:
    text = text.strip()
    digits = len(text) - len(text.lstrip("0123456789._"))
    unit = text[digits:].strip().lower()
    if unit not in units:
        raise ValueError("")
    return _number(float(text[:digits])) * units[unit]


def _duration(value: object) -> float:
    return _with_unit(value, {"": 1.0, **_DURATION_UNITS}) if isinstance(value, str) else _number(value)


def _size(value: object) -> int:
    if isinstance(value, str):
        return int(_with_unit(value, _SIZE_UNITS))
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError("")
    return value


DURATION: Kind[float] = Kind("seconds, or a text such as 30m, 12h or 7d", _duration, _duration)
SIZE: Kind[int] = Kind("bytes, or a text such as 1GiB", _size, _size)


# ------------------------------------------------------------------------------------------------------ many values


def split(text: str) -> Strings:
    """Return the non-empty items of a comma-separated text."""
    return tuple(item for item in (part.strip() for part in text.split(",")) if item)


def _strings(value: object) -> Strings:
    if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
        raise ValueError("")
    return tuple(item.strip() for item in value)


def distribution_name(name: str) -> str:
    """Return the normal form of a pip package's name (PEP 503)."""
    return "-".join(filter(None, name.lower().replace("_", "-").replace(".", "-").split("-")))


def _distributions(names: Strings | None) -> Strings | None:
    return None if names is None else tuple(map(distribution_name, names))


def _strings_or_all(value: object) -> Strings | None:
    return None if value == "all" else _strings(value)


def _table(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError("")
    return dict(value)


def _table_of_lists(value: object) -> dict[str, Strings]:
    if not isinstance(value, dict):
        raise ValueError("")
    return {key: _strings([item] if isinstance(item, str) else item) for key, item in value.items()}


def _table_text(text: str) -> dict[str, str]:
    table: dict[str, str] = {}
    last = ""
    for item in split(text):
        key, found, value = item.partition("=")
        if found and key.strip():
            last = key.strip()
            table[last] = value.strip()
        elif last:
            table[last] += f",{item}"
        else:
            raise ValueError("")
    return table


def _table_of_lists_text(text: str) -> dict[str, Strings]:
    return {key: tuple(item for item in value.split("|") if item) for key, value in _table_text(text).items()}


def _proxies(table: dict[str, str]) -> Mapping[str, str]:
    if not table.keys() <= {"http", "https", "no"}:
        raise ValueError("the keys are http, https and no")
    return table


def virtual_package_name(word: str) -> str:
    """Return ``__cuda`` for ``cuda``, ``CUDA`` or ``__cuda``."""
    return "__" + word.strip("_").lower()


def _virtual_packages(table: dict[str, str]) -> Mapping[str, str]:
    return {virtual_package_name(key): value.strip() for key, value in table.items()}


ADDRESSES: Kind[Strings] = Kind(
    "a list of host:port",
    lambda value: tuple(map(_address, _strings(value))),
    lambda text: tuple(map(_address, split(text))),
)
STRINGS: Kind[Strings] = Kind("a list of texts", _strings, split)
PLACES: Kind[Strings] = Kind(
    "a list of URLs and absolute paths",
    lambda value: tuple(map(_place, _strings(value))),
    lambda text: tuple(map(_place, split(text))),
    is_path=True,
)
URLS: Kind[Strings] = Kind(
    "a list of http, https or file URLs",
    lambda value: tuple(map(_url, _strings(value))),
    lambda text: tuple(map(_url, split(text))),
)
STRINGS_OR_ALL: Kind[Strings | None] = Kind(
    'a list of texts, or "all"', _strings_or_all, lambda text: None if text.strip() == "all" else split(text)
)
DISTRIBUTIONS_OR_ALL: Kind[Strings | None] = Kind(
    'a list of names of pip packages, or "all"',
    lambda value: _distributions(_strings_or_all(value)),
    lambda text: _distributions(STRINGS_OR_ALL.from_text(text)),
)
TABLE: Kind[Mapping[str, str]] = Kind("a table of texts", _table, _table_text, is_table=True)
TABLE_OF_LISTS: Kind[Mapping[str, Strings]] = Kind(
    "a table of lists of texts", _table_of_lists, _table_of_lists_text, is_table=True
)
PROXIES: Kind[Mapping[str, str]] = Kind(
    "a table with the keys http, https, no",
    lambda value: _proxies(_table(value)),
    lambda text: _proxies(_table_text(text)),
    is_table=True,
)
VIRTUAL_PACKAGES: Kind[Mapping[str, str]] = Kind(
    "a table of versions by virtual package",
    lambda value: _virtual_packages(_table(value)),
    lambda text: _virtual_packages(_table_text(text)),
    is_table=True,
)
