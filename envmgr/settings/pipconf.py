"""pip's own settings, for users whose package index stands in a ``pip.conf`` (uv does not read it).

Read, later wins: ``pip/pip.conf`` in each of ``$XDG_CONFIG_DIRS`` (default ``/etc/xdg``), ``/etc/pip.conf``,
``~/.pip/pip.conf``, ``$XDG_CONFIG_HOME/pip/pip.conf`` (default ``~/.config``), ``$PIP_CONFIG_FILE``. As in pip, an
existing ``$PIP_CONFIG_FILE`` replaces the user's files, and ``/dev/null`` in it replaces all. The file of an active
virtual environment is not read. Inside, section ``[install]`` wins over ``[global]``; other sections say nothing.

Source: pip's documentation, "Configuration"; pip 23 to 25.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from envmgr.errors import UsageError
from envmgr.settings import kinds
from envmgr.settings.schema import BY_KEY
from envmgr.settings.sources import Layer, Source, convert, read_text

_OFF = "use_pip_conf = false makes envmgr ignore pip's files"


def _one(text: str) -> object:
    return text.strip()


def _words(text: str) -> object:
    return text.split()


def _places_of_archives(text: str) -> object:
    return [place(word) for word in text.split()]


def place(word: str) -> str:
    """Make a relative directory absolute from where the caller stands, as pip does; the builder works elsewhere."""
    return word if "://" in word or word.startswith("~/") else str(Path(word).absolute())


HONOURED: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "index-url": ("index_url", _one),
    "extra-index-url": ("extra_index_urls", _words),
    "find-links": ("find_links", _places_of_archives),
    "no-index": ("no_index", kinds.as_bool),
    "cert": ("ca_file", _one),
}
"""Key of pip's → setting and how its text is read. Each has a variable, such as ``PIP_INDEX_URL``."""


def variables() -> Mapping[str, tuple[str, ...]]:
    """Return the environment variables of pip that count, with the setting that each is about."""
    return {_variable(key): (setting,) for key, (setting, _) in HONOURED.items()}


def read_files(environ: Mapping[str, str], home: Path, etc: Path, *, is_personal: bool) -> list[Layer]:
    """Read every file that there is, lowest first; of a service store's environment no place is taken."""
    layers = []
    for path in _places(environ if is_personal else {}, home, etc):
        text = read_text(path, _OFF)
        if text is not None:
            for key, value in _parse(text, path).items():
                layers.append(_layer(key, value, Source(str(path), key), home))
    return layers


def read_variables(environ: Mapping[str, str], home: Path) -> list[Layer]:
    """Read the ``PIP_*`` variables; an empty one says nothing, as in pip."""
    found = [(key, _variable(key)) for key in HONOURED if environ.get(_variable(key), "").strip()]
    return [_layer(key, environ[name], Source(None, name), home) for key, name in found]


def _variable(key: str) -> str:
    return f"PIP_{key.upper().replace('-', '_')}"


def _layer(key: str, text: str, source: Source, home: Path) -> Layer:
    setting, read = HONOURED[key]
    entry = BY_KEY[setting]
    try:
        value = read(text)
    except ValueError:
        value = None
    try:
        return {setting: (convert(entry, value, source, home), (source,))}
    except UsageError as error:
        error.hint = _OFF
        raise


def _places(environ: Mapping[str, str], home: Path, etc: Path) -> Iterator[Path]:
    own = environ.get("PIP_CONFIG_FILE")
    if own == os.devnull:
        return
    for directory in environ.get("XDG_CONFIG_DIRS", "").split(":") if environ.get("XDG_CONFIG_DIRS") else [etc / "xdg"]:
        if directory:
            yield Path(directory) / "pip" / "pip.conf"
    yield etc / "pip.conf"
    if own is None or not os.path.exists(own):
        yield home / ".pip" / "pip.conf"
        yield Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    if own is not None:
        yield Path(own)


def _parse(text: str, path: Path) -> Mapping[str, str]:
    import configparser  # noqa: PLC0415 - only where there is a file

    parser = configparser.RawConfigParser()
    try:
        parser.read_string(text, str(path))
    except configparser.Error as error:
        line = getattr(error, "lineno", None)
        raise UsageError(
            f"{path} cannot be read as pip's settings" + (f" (line {line})" if line else ""), hint=_OFF, file=str(path)
        ) from None
    found: dict[str, str] = {}
    for section in ("global", "install"):
        if parser.has_section(section):
            items = {key.replace("_", "-"): value for key, value in parser.items(section)}
            found |= {key: value for key, value in items.items() if key in HONOURED and value and value.strip()}
    return found
