"""Conda's own settings, for users whose channels and mirrors stand in a ``.condarc``.

Read, later wins: ``.condarc``, ``condarc`` and ``condarc.d/*.yml`` in each of ``/etc/conda``, ``/var/lib/conda``,
conda's own root (``$CONDA_ROOT``, else the directory above the one of ``$CONDA_EXE``), ``$XDG_CONFIG_HOME/conda``,
``~/.config/conda`` and ``~/.conda``; then ``~/.condarc``; then ``$CONDARC``. That is conda's order, without
``$CONDA_PREFIX``: what is built must not depend on which environment happens to be active.

As in conda, lists of several files are joined (those of the later file first), tables are joined entry by entry, and
``$VAR`` and ``${VAR}`` stand for environment variables (left alone where unset). Marks such as ``#!final`` are not
read. Only the keys in `HONOURED` count, and their variables ``CONDA_<KEY>``; everything else in these files is
conda's own affair.

Source: conda's documentation, "Using the .condarc conda configuration file".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from envmgr.errors import UsageError
from envmgr.settings import kinds
from envmgr.settings.schema import BY_KEY
from envmgr.settings.sources import Layer, Source, convert, misfit, read_text

_OFF = "use_condarc = false makes envmgr ignore conda's files"
_REFERENCE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\})")


@dataclass(frozen=True, slots=True)
class Honoured:
    """A key of conda's that counts: the settings that it is about, how it translates, what joins several files."""

    settings: tuple[str, ...]
    translate: Callable[[object], Mapping[str, object]]
    shape: type[list[object] | dict[object, object]] | None = None
    from_text: Callable[[str], object] = str
    """How the text of its environment variable is read."""


def _same(setting: str, from_text: Callable[[str], object] = str) -> Honoured:
    return Honoured((setting,), lambda value: {setting: value}, None, from_text)


def _list(setting: str) -> Honoured:
    return Honoured((setting,), lambda value: {setting: value}, list, lambda text: list(kinds.split(text)))


def _table(setting: str) -> Honoured:
    return Honoured((setting,), lambda value: {setting: value}, dict)


def _ssl_verify(value: object) -> Mapping[str, object]:
    if isinstance(value, bool):
        return {"verify_tls": value}
    if value == "truststore":
        return {"verify_tls": True}
    return {"verify_tls": True, "ca_file": value}


def _channel_priority(value: object) -> Mapping[str, object]:
    if isinstance(value, bool):
        return {"channel_priority": "flexible" if value else "disabled"}
    return {"channel_priority": value}


def _proxy_servers(value: object) -> Mapping[str, object]:
    """Keep the proxies by scheme; conda's proxies for one host (``http://host``) have no counterpart."""
    if not isinstance(value, dict):
        return {"proxies": value}
    return {"proxies": {key: item for key, item in value.items() if key in ("http", "https") and item}}


def _flag_or_text(text: str) -> object:
    try:
        return kinds.as_bool(text)
    except ValueError:
        return text


HONOURED: Mapping[str, Honoured] = {
    "channels": _list("default_channels"),
    "default_channels": _list("expand_defaults"),
    "channel_alias": _same("channel_alias"),
    "channel_priority": Honoured(("channel_priority",), _channel_priority, None, _flag_or_text),
    "custom_channels": _table("custom_channels"),
    "custom_multichannels": _table("custom_multichannels"),
    "offline": _same("offline", _flag_or_text),
    "proxy_servers": Honoured(("proxies",), _proxy_servers, dict),
    "remote_max_retries": _same("max_retries", int),
    "remote_read_timeout_secs": _same("timeout_s", float),
    "ssl_verify": Honoured(("verify_tls", "ca_file"), _ssl_verify, None, _flag_or_text),
}
"""Key of conda's → settings. Note the two meanings of ``default_channels``: conda's is what ``defaults`` expands to."""


def variables() -> Mapping[str, tuple[str, ...]]:
    """Return the environment variables of conda that count, with the settings that each is about."""
    return {f"CONDA_{key.upper()}": kind.settings for key, kind in HONOURED.items() if kind.shape is not dict}


def read_files(environ: Mapping[str, str], home: Path, etc: Path, *, is_personal: bool) -> list[Layer]:
    """Read every file that there is, lowest first; of a service store's environment no place is taken."""
    documents: list[tuple[Path, Mapping[str, object]]] = []
    for path in _places(environ if is_personal else {}, home, etc):
        text = read_text(path, _OFF)
        if text is not None:
            documents.append((path, parse(text, path)))
    layers = []
    for key, honoured in HONOURED.items():
        found = [
            (Source(str(path), key), _expand(document[key], environ))
            for path, document in documents
            if document.get(key) is not None
        ]
        if found:
            layers.append(_layer(honoured, _join(honoured, found), tuple(source for source, _ in found), home))
    return layers


def read_variables(environ: Mapping[str, str], home: Path) -> list[Layer]:
    """Read the ``CONDA_<KEY>`` variables; an empty one says nothing."""
    layers = []
    for key, honoured in HONOURED.items():
        name = f"CONDA_{key.upper()}"
        text = environ.get(name, "").strip()
        if text and honoured.shape is not dict:
            try:
                value = honoured.from_text(text)
            except ValueError:
                value = None  # fits nothing: the error is that of a value in a file
            layers.append(_layer(honoured, value, (Source(None, name),), home))
    return layers


def _layer(honoured: Honoured, value: object, sources: tuple[Source, ...], home: Path) -> Layer:
    layer: Layer = {}
    for setting, item in honoured.translate(value).items():
        if setting == "ca_file" and not isinstance(item, str):
            error = misfit(BY_KEY[setting], sources[-1])
            error.hint = _OFF
            raise error
        try:
            layer[setting] = (convert(BY_KEY[setting], item, sources[-1], home), sources)
        except UsageError as error:
            error.hint = _OFF
            raise
    return layer


def _join(honoured: Honoured, found: list[tuple[Source, object]]) -> object:
    if honoured.shape is None:
        return found[-1][1]
    for source, value in found:
        is_list = isinstance(value, list) and all(isinstance(item, str) for item in value)
        if not (is_list if honoured.shape is list else isinstance(value, dict)):
            expected = "a list of texts" if honoured.shape is list else "keys and values"
            raise UsageError(f"{source}: expected {expected}", hint=_OFF, file=source.file)
    if honoured.shape is dict:
        table: dict[object, object] = {}
        for _, value in found:
            table |= cast("dict[object, object]", value)
        return table
    items: list[object] = []
    for _, value in reversed(found):
        items += [item for item in cast("list[object]", value) if item not in items]
    return items


def _places(environ: Mapping[str, str], home: Path, etc: Path) -> Iterator[Path]:
    directories = [etc / "conda", etc.parent / "var" / "lib" / "conda"]
    if environ.get("CONDA_ROOT"):
        directories.append(Path(environ["CONDA_ROOT"]))
    elif environ.get("CONDA_EXE", "").startswith("/"):
        directories.append(Path(environ["CONDA_EXE"]).parent.parent)
    if environ.get("XDG_CONFIG_HOME"):
        directories.append(Path(environ["XDG_CONFIG_HOME"]) / "conda")
    directories += [home / ".config" / "conda", home / ".conda"]
    # Two of these may be one directory; the first mention is enough.
    for directory in dict.fromkeys(directories):
        yield directory / ".condarc"
        yield directory / "condarc"
        parts = directory / "condarc.d"
        if parts.is_dir():
            yield from sorted(path for path in parts.iterdir() if path.suffix in (".yml", ".yaml"))
    yield home / ".condarc"
    if environ.get("CONDARC"):
        yield Path(environ["CONDARC"])


def parse(text: str, path: Path) -> Mapping[str, object]:
    """Return the keys and values of the file at `path`, which has `text`; `UsageError` when it is none of conda's."""
    # Imported only when there is a file: it costs 40 ms.
    import yaml  # noqa: PLC0415 - conda's files are YAML; specs and lockfiles are not read here

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        document = yaml.load(text, loader)  # noqa: S506 - a safe loader, in C where there is one
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise UsageError(f"{path} is not YAML{where}", hint=_OFF, file=str(path)) from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise UsageError(f"{path}: expected keys and values", hint=_OFF, file=str(path))
    return document


def _expand(value: object, environ: Mapping[str, str], depth: int = 2) -> object:
    """Replace variables as deep as honoured values go; below that YAML's aliases could make any number of texts."""
    if isinstance(value, str):
        return _REFERENCE.sub(lambda found: environ.get(found[1] or found[2], found[0]), value)
    if isinstance(value, list) and depth:
        return [_expand(item, environ, depth - 1) for item in value]
    if isinstance(value, dict) and depth:
        return {key: _expand(item, environ, depth - 1) for key, item in value.items()}
    return value
