"""Where values come from, and the sources that are written for envmgr: TOML files and ``ENVMGR_*`` variables.

A `Layer` is what one source says: key → value and where it stands. Layers are put on top of each other by
`envmgr.settings.loading`.

``${NAME}`` in a text of a TOML file is replaced by that environment variable, so that a password need not stand in
the file; an unset variable is an error.

``credential:NAME`` in place of a path is the file of that name in ``$CREDENTIALS_DIRECTORY``, where systemd puts what
the service's unit loads (``LoadCredential=``). Outside of the service it stays as it is: a name without a file.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from envmgr.errors import UsageError
from envmgr.settings.kinds import CREDENTIAL
from envmgr.settings.schema import BY_KEY, Entry

OTHER_VARIABLES = frozenset({"ENVMGR_ROOT", "ENVMGR_ENV", "ENVMGR_SPEC"})
"""Variables of envmgr that are no settings: which store, and what the launcher starts."""

CLUSTER = "the cluster's settings"

_READABLE = "make it readable; what is secret belongs in a file or a variable of the store's owner"
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value stands.

    A file and a key in it; a file alone (``~/.netrc``); an environment variable, which is a key alone; or neither. What
    the cluster's hosts share stands in no file: `CLUSTER` is in its place.
    """

    file: str | None = None
    key: str | None = None

    def __str__(self) -> str:
        if self.file is None:
            return "default" if self.key is None else f"${self.key}"
        return self.file if self.key is None else f"{self.file}: {self.key}"

    def to_json(self) -> Mapping[str, object]:
        if self.file == CLUSTER:
            return {"kind": "cluster", "file": None, "key": self.key}
        kind = "file" if self.file is not None else "default" if self.key is None else "environment"
        return {"kind": kind, "file": self.file, "key": self.key}


DEFAULT = Source()

Layer = dict[str, tuple[object, tuple[Source, ...]]]


def read_file(path: Path, environ: Mapping[str, str], home: Path) -> Layer:
    """Read a settings file; one that is not there says nothing. Raises `UsageError` for whatever is wrong with it."""
    text = read_text(path)
    if text is None:
        return {}
    layer: Layer = {}
    for key, value in _parse(text, path).items():
        source = Source(str(path), key)
        if key not in BY_KEY:
            raise UsageError(
                f"{path}: there is no setting {key!r}", hint=_did_you_mean(key, BY_KEY), file=str(path), key=key
            )
        found = convert(BY_KEY[key], _expand(value, environ, source), source, home)
        layer[key] = (_credential(BY_KEY[key], found, environ), (source,))
    return layer


def read_environment(environ: Mapping[str, str], home: Path) -> tuple[Layer, tuple[str, ...]]:
    """Read the ``ENVMGR_*`` variables; also return a warning for each that is no setting but resembles one."""
    layer: Layer = {}
    warnings = []
    variables = {entry.variable: entry for entry in BY_KEY.values()}
    for name in sorted(name for name in environ if name.startswith("ENVMGR_")):
        source = Source(None, name)
        if name in variables:
            entry = variables[name]
            try:
                value = entry.kind.from_text(environ[name])
            except ValueError as error:
                raise misfit(entry, source, str(error)) from None
            layer[entry.key] = (_credential(entry, _home(entry, value, home), environ), (source,))
        elif name not in OTHER_VARIABLES:
            hint = _did_you_mean(name, variables)
            if hint is not None:
                warnings.append(f"environment variable {name} is no setting; {hint}")
    return layer, tuple(warnings)


def convert(entry: Entry, value: object, source: Source, home: Path) -> object:
    """Check a value from a file against its setting's kind; raise `UsageError` naming file, key and what is expected.

    The value itself is never repeated: it may hold a password.
    """
    try:
        return _home(entry, entry.kind.from_toml(value), home)
    except ValueError as error:
        raise misfit(entry, source, str(error)) from None


def misfit(entry: Entry, source: Source, detail: str = "") -> UsageError:
    """Return the error of a value that does not fit `entry`."""
    detail = detail if "the keys are" in detail else ""
    return UsageError(
        f"{source}: expected {entry.kind.name}" + (f"; {detail}" if detail else ""),
        hint=f"{entry.key}: {entry.doc}",
        file=source.file,
        key=source.key,
        expected=entry.kind.name,
    )


def read_text(path: Path, hint: str = _READABLE) -> str | None:
    """Return a file's text, ``None`` if there is no file; raise `UsageError` if it cannot be read as UTF-8.

    A file that may not be read is an error, too: going on without it would build something else.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UsageError(f"cannot read the settings in {path}: {error.strerror}", hint=hint, file=str(path)) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read the settings in {path}: it is not UTF-8", hint=hint, file=str(path)) from error


def _parse(text: str, path: Path) -> Mapping[str, object]:
    # Imported only when there is a file: it costs 20 ms.
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    try:
        return cast("Mapping[str, object]", toml.loads(text))
    except ValueError as error:
        raise UsageError(f"{path} is not TOML: {error}", file=str(path)) from None
    except RecursionError:
        raise UsageError(f"{path} is nested too deeply", file=str(path)) from None


def _expand(value: object, environ: Mapping[str, str], source: Source) -> object:
    if isinstance(value, str):
        return _REFERENCE.sub(lambda found: _variable(found[1], environ, source), value)
    if isinstance(value, list):
        return [_expand(item, environ, source) for item in value]
    if isinstance(value, dict):
        return {key: _expand(item, environ, source) for key, item in value.items()}
    return value


def _variable(name: str, environ: Mapping[str, str], source: Source) -> str:
    if name not in environ:
        raise UsageError(f"{source}: the environment variable {name} is not set", file=source.file, key=source.key)
    return environ[name]


def _home(entry: Entry, value: object, home: Path) -> object:
    if not entry.kind.is_path:
        return value
    if isinstance(value, tuple):
        return tuple(_home(entry, item, home) for item in value)
    return str(home / value[2:]) if isinstance(value, str) and value.startswith("~/") else value


def _credential(entry: Entry, value: object, environ: Mapping[str, str]) -> object:
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if directory and is_credential(entry, value):
        return os.path.join(directory, str(value)[len(CREDENTIAL) :])
    return value


def is_credential(entry: Entry, value: object) -> bool:
    """Tell whether a value names a file of the service's that this process was not given."""
    return entry.kind.is_path and isinstance(value, str) and value.startswith(CREDENTIAL)


def _did_you_mean(word: str, known: Mapping[str, object]) -> str | None:
    import difflib  # noqa: PLC0415 - only on the way to an error

    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.75)
    return f"did you mean {close[0]!r}?" if close else None
