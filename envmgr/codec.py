"""Frozen records to JSON and back, checked field by field.

For dataclasses whose fields are strings (and subclasses of `str`), numbers, booleans, ``None``, literals, tuples,
mappings and other such dataclasses. Missing fields take their defaults; unknown keys are left alone, so that an older
reader meets a newer writer's additions.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

T = TypeVar("T")


def dump(record: object) -> str:
    """Return one line of JSON for a record."""
    return json.dumps(dataclasses.asdict(record), ensure_ascii=False, separators=(",", ":"))  # type: ignore[call-overload]


def load(cls: type[T], document: object) -> T:
    """Rebuild a record from its parsed JSON; `ValueError` says which field does not fit."""
    return typing.cast("T", _load(cls, document, cls.__name__))


@functools.cache
def _hints(cls: type) -> Mapping[str, Any]:
    return typing.get_type_hints(cls)


def _load(hint: Any, value: Any, where: str) -> Any:  # noqa: PLR0911 - one branch per kind of type
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _load_record(hint, value, where)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _load(next(arg for arg in args if arg is not type(None)), value, where)
    if origin is tuple:
        return _load_tuple(args, value, where)
    if origin is collections.abc.Mapping:
        if not isinstance(value, dict):
            raise ValueError(f"{where}: expected an object")
        return {_load(args[0], key, where): _load(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is Literal:
        if value not in args:
            raise ValueError(f"{where}: {value!r} is none of {args}")
        return value
    if hint is float and isinstance(value, int | float):
        return _finite(value, where)
    if isinstance(value, str) and issubclass(hint, str):
        return hint(value)
    if not isinstance(value, hint):
        raise ValueError(f"{where}: expected {hint.__name__}, got {type(value).__name__}")
    return value


def _finite(value: float, where: str) -> float:
    """Return a number that JSON has: Python's reader makes infinity of one that is too large, or is called so."""
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise ValueError(f"{where}: expected a number that is finite")
    return found


def _load_record(cls: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected an object")
    hints = _hints(cls)
    known = {name: _load(hints[name], value[name], f"{where}.{name}") for name in hints if name in value}
    try:
        return cls(**known)
    except TypeError as error:
        missing = [it.name for it in dataclasses.fields(cls) if it.name not in known and not _has_default(it)]
        raise ValueError(f"{where}: {', '.join(missing)} missing" if missing else f"{where}: {error}") from error


def _has_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _load_tuple(args: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{where}: expected a list")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_load(args[0], item, where) for item in value)
    if len(args) != len(value):
        raise ValueError(f"{where}: expected {len(args)} items, got {len(value)}")
    return tuple(_load(arg, item, where) for arg, item in zip(args, value, strict=True))
