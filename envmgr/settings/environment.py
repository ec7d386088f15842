"""The environment variables of other programs that a personal store's user expects to count.

`TABLE` names those that belong to no one program, and uv's; `pipconf` and `condarc` know their own. Lowest first: uv,
pip, everybody's, conda. A service store never reads them: its environment is that of whoever started the daemon. Values
that are written for envmgr itself win over every one of them.

uv's variables are there for users who know that uv installs the pip section; pip's win, because the section is pip's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from envmgr.settings import condarc, pipconf
from envmgr.settings.schema import BY_KEY
from envmgr.settings.sources import Layer, Source, convert

Owner = Literal["any", "pip"]


def _url_words(text: str) -> list[str]:
    """Read uv's list of indexes, each of which may have a name before it (``name=https://…``)."""
    return [word.partition("=")[2] if "=" in word.partition("://")[0] else word for word in text.split()]


def _url_word(text: str) -> object:
    return next(iter(_url_words(text)), "")


def _absolute_path(text: str) -> object:
    return str(Path(text).absolute())


def _places(text: str) -> object:
    return [pipconf.place(word) for word in text.replace(",", " ").split()]


def _proxy(*schemes: str) -> Callable[[str], object]:
    return lambda text: dict.fromkeys(schemes, text)


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable of another program: its setting, how its text is read, and which switch turns it off."""

    name: str
    setting: str
    read: Callable[[str], object]
    owner: Owner = "any"


TABLE: tuple[Variable, ...] = (
    Variable("CURL_CA_BUNDLE", "ca_file", _absolute_path),
    Variable("SSL_CERT_FILE", "ca_file", _absolute_path),
    Variable("REQUESTS_CA_BUNDLE", "ca_file", _absolute_path),
    Variable("ALL_PROXY", "proxies", _proxy("http", "https")),
    Variable("all_proxy", "proxies", _proxy("http", "https")),
    Variable("HTTP_PROXY", "proxies", _proxy("http")),
    Variable("http_proxy", "proxies", _proxy("http")),
    Variable("HTTPS_PROXY", "proxies", _proxy("https")),
    Variable("https_proxy", "proxies", _proxy("https")),
    Variable("NO_PROXY", "proxies", _proxy("no")),
    Variable("no_proxy", "proxies", _proxy("no")),
    Variable("NETRC", "netrc_file", _absolute_path),
    Variable("RATTLER_AUTH_FILE", "auth_file", _absolute_path),
    Variable("UV_INDEX_URL", "index_url", _url_word, "pip"),
    Variable("UV_DEFAULT_INDEX", "index_url", _url_word, "pip"),
    Variable("UV_EXTRA_INDEX_URL", "extra_index_urls", _url_words, "pip"),
    Variable("UV_INDEX", "extra_index_urls", _url_words, "pip"),
    Variable("UV_FIND_LINKS", "find_links", _places, "pip"),
)
"""Beside these: ``PIP_*`` (`pipconf.HONOURED`), ``CONDA_*`` (`condarc.HONOURED`) and ``CONDA_OVERRIDE_*``."""

_OVERRIDE = "CONDA_OVERRIDE_"


def variables_of(setting: str) -> tuple[str, ...]:
    """Return the names of all variables of other programs that may set `setting`, lowest first."""
    names = [variable.name for variable in TABLE if variable.setting == setting]
    for table in (pipconf.variables(), condarc.variables()):
        names += [name for name, settings in table.items() if setting in settings]
    return (*names, f"{_OVERRIDE}*") if setting == "virtual_packages" else tuple(names)


def read(environ: Mapping[str, str], home: Path, *, use_conda: bool, use_pip: bool) -> list[Layer]:
    """Return what the variables say, lowest first; an empty variable says nothing, ``CONDA_OVERRIDE_*`` apart."""
    layers = _files_in_home(home)
    if use_pip:
        layers += _read_table("pip", environ, home)
        layers += pipconf.read_variables(environ, home)
    layers += _read_table("any", environ, home)
    if use_conda:
        layers += condarc.read_variables(environ, home)
    for name in sorted(environ):
        word = name[len(_OVERRIDE) :]
        if name.startswith(_OVERRIDE) and word:
            # Empty is a statement here, as in conda: this host does not have it.
            layers.append(_layer("virtual_packages", {word: environ[name]}, Source(None, name), home))
    return layers


def _read_table(owner: Owner, environ: Mapping[str, str], home: Path) -> list[Layer]:
    found = [(variable, environ.get(variable.name, "").strip()) for variable in TABLE if variable.owner == owner]
    return [
        _layer(variable.setting, variable.read(text), Source(None, variable.name), home)
        for variable, text in found
        if text
    ]


def _files_in_home(home: Path) -> list[Layer]:
    """Look for the two files with logins where other programs look for them."""
    found = (("netrc_file", home / ".netrc"), ("auth_file", home / ".rattler" / "credentials.json"))
    return [{key: (str(path), (Source(str(path)),))} for key, path in found if path.is_file()]


def _layer(setting: str, value: object, source: Source, home: Path) -> Layer:
    return {setting: (convert(BY_KEY[setting], value, source, home), (source,))}
