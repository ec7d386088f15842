"""Every option of pip's that a pip section or a requirements file may hold, and what becomes of it.

======== ==============================================================================================
kept     part of the identity, in the order of the document; handed to uv under the same name
renamed  part of the identity under pip's name; handed to uv as the arguments in `Option.uv`
content  not an option of the identity: what it names is read and counts (``-r``, ``-c``, ``-e``, ``--hash``)
refused  the document is refused, with `Option.reason`
======== ==============================================================================================

Nothing is ignored: what would change nothing is refused too, since it says that its author expects something.

Values: URLs as `envmgr.spec.urls` keeps them, an index without its trailing slash; package lists one name at a time.

Sources: pip's documentation of the requirements file format and of ``pip install``; ``uv pip compile --help``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from envmgr.model import PipOption
from envmgr.spec.pip_requirements import package_name
from envmgr.spec.problems import Refusal, closest, shown
from envmgr.spec.urls import is_url, parse_url

Fate = Literal["kept", "renamed", "content", "refused"]
Takes = Literal["nothing", "index", "links", "packages", "host", "setting", "file", "hash", "text"]
_URL_SCHEMES = ("file", "http", "https")
PATH_REASON = "a path means something else on each host"


class Option(NamedTuple):
    """One option: its long flag, its other spellings, what value it takes, and what becomes of it."""

    flag: str
    others: tuple[str, ...]
    takes: Takes
    fate: Fate
    uv: tuple[str, ...] = ()
    reason: str = ""


_EFFECT = "it changes nothing in what is installed: remove it"
_LOCKED = "envmgr locks what was found and installs exactly that: remove it"
_OWN_PREFIX = "envmgr installs into the environment's own prefix: remove it"
_NETWORK = "how the network is reached is a setting of envmgr's"
_BUILDING = "sdists are built by uv, in isolation: use --config-settings or a wheel"
_GONE = "no present pip has it"


def _refused(reason: str, takes: Takes, *flags: str) -> tuple[Option, ...]:
    return tuple(
        Option(flag, tuple(others), takes, "refused", reason=reason)
        for flag, *others in (names.split("|") for names in flags)
    )


OPTIONS: tuple[Option, ...] = (
    Option("--index-url", ("-i", "--pypi-url"), "index", "kept", ("--index-url",)),
    Option("--extra-index-url", (), "index", "kept", ("--extra-index-url",)),
    Option("--find-links", ("-f",), "links", "kept", ("--find-links",)),
    Option("--no-index", (), "nothing", "kept", ("--no-index",)),
    Option("--no-binary", (), "packages", "kept", ("--no-binary",)),
    Option("--only-binary", (), "packages", "kept", ("--only-binary",)),
    Option("--no-deps", ("--no-dependencies",), "nothing", "kept", ("--no-deps",)),
    Option("--no-build-isolation", (), "nothing", "kept", ("--no-build-isolation",)),
    Option("--pre", (), "nothing", "renamed", ("--prerelease", "allow")),
    Option("--trusted-host", (), "host", "renamed", ("--allow-insecure-host",)),
    Option("--config-settings", ("-C", "--config-setting"), "setting", "renamed", ("--config-setting",)),
    Option("--requirement", ("-r", "--requirements"), "file", "content"),
    Option("--constraint", ("-c", "--constraints"), "file", "content"),
    Option("--editable", ("-e",), "text", "content"),
    Option("--hash", (), "hash", "content"),
    *_refused("uv has no such preference: use --only-binary", "nothing", "--prefer-binary"),
    *_refused("uv takes the newest that fits: remove it", "nothing", "--only-final"),
    *_refused("uv has --pre for all packages only", "text", "--all-releases", "--uploaded-prior-to"),
    *_refused("every artifact is locked and checked by its sha256 anyway: remove it", "nothing", "--require-hashes"),
    *_refused(_LOCKED, "nothing", "--upgrade|-U", "--force-reinstall", "--ignore-installed|-I", "--dry-run"),
    *_refused(_LOCKED, "text", "--upgrade-strategy", "--exists-action", "--report", "--group", "--build-constraint"),
    *_refused("the environment's own interpreter decides", "nothing", "--ignore-requires-python"),
    *_refused("the environment's own interpreter decides", "text", "--python-version", "--python", "--abi"),
    *_refused("the environment's own platform decides", "text", "--platform", "--implementation"),
    *_refused(
        _OWN_PREFIX, "nothing", "--user|--no-user", "--break-system-packages", "--require-virtualenv|--require-venv"
    ),
    *_refused(_OWN_PREFIX, "text", "--target|-t", "--root", "--prefix", "--src", "--log", "--root-user-action"),
    *_refused(_BUILDING, "text", "--global-option", "--install-option", "--build-option", "--build|-b"),
    *_refused(_BUILDING, "nothing", "--use-pep517", "--no-use-pep517", "--check-build-dependencies", "--no-clean"),
    *_refused(_NETWORK, "text", "--proxy", "--retries", "--timeout|--default-timeout", "--cert", "--client-cert"),
    *_refused(_NETWORK, "text", "--keyring-provider", "--cache-dir"),
    *_refused(
        _EFFECT, "nothing", "--no-cache-dir|--no-cache", "--compile", "--no-compile", "--quiet|-q", "--verbose|-v"
    ),
    *_refused(_EFFECT, "nothing", "--no-warn-script-location", "--no-warn-conflicts", "--no-input", "--no-color"),
    *_refused(
        _EFFECT, "nothing", "--disable-pip-version-check", "--no-python-version-warning", "--isolated", "--debug"
    ),
    *_refused(_EFFECT, "text", "--progress-bar", "--use-feature", "--use-deprecated"),
    *_refused(_GONE, "nothing", "--process-dependency-links", "--use-wheel", "--no-use-wheel", "--always-unzip|-Z"),
    *_refused(_GONE, "text", "--allow-external", "--allow-unverified", "--use-mirrors", "--mirrors"),
    *_refused(_GONE, "nothing", "--allow-all-external", "--egg"),
)
_BY_FLAG = {flag: option for option in OPTIONS for flag in (option.flag, *option.others)}


def find_option(tokens: list[str]) -> tuple[Option, str]:
    """Take an option and its value off the front of `tokens`; raise `Refusal` for one that is unknown or refused.

    ``--flag value``, ``--flag=value``, ``-f value`` and ``-fvalue`` are read.
    """
    token = tokens.pop(0)
    flag, equals, value = token.partition("=") if token.startswith("--") else (token[:2], "", token[2:])
    option = _BY_FLAG.get(flag)
    if option is None:
        meant = closest(flag, tuple(_BY_FLAG))
        raise Refusal(f"pip has no option {shown(flag)}", f"did you mean {meant}?" if meant else None)
    if option.fate == "refused":
        raise Refusal(f"pip's option {option.flag} is not supported", option.reason)
    if option.takes == "nothing":
        if equals or value:
            raise Refusal(f"pip's option {option.flag} takes no value")
        return option, ""
    if not equals and not value:
        value = tokens.pop(0) if tokens else ""
    value = value.strip()
    if not value:
        raise Refusal(f"pip's option {option.flag} has no value")
    return option, value


def values(option: Option, value: str) -> tuple[list[PipOption], bool]:
    """Return an option of the identity with its normalised values, and whether credentials were removed."""
    if option.takes in ("index", "links"):
        address, had_credentials = _address(option, value)
        return [PipOption(option.flag, address)], had_credentials
    if option.takes == "packages":
        names = [name.strip() for name in value.split(",") if name.strip()]
        return [PipOption(option.flag, _package(option, name)) for name in names], False
    if not value.isascii() or not value.isprintable():
        raise Refusal(f"the value of {option.flag} has characters that it may not have")
    if option.takes == "setting" and "=" not in value:
        raise Refusal(f"the value of {option.flag} is not KEY=VALUE")
    return [PipOption(option.flag, value.lower() if option.takes == "host" else value)], False


def _address(option: Option, value: str) -> tuple[str, bool]:
    if not is_url(value):
        raise Refusal(f"the value of {option.flag}, {shown(value)}, is a path", f"{PATH_REASON}: write a URL")
    url = parse_url(value, schemes=_URL_SCHEMES)
    text = str(url)
    if option.takes == "index" and not url.query and not url.fragment:
        text = text.rstrip("/")
    return text, url.had_credentials


def _package(option: Option, name: str) -> str:
    if name in (":all:", ":none:"):
        return name
    if not name.isascii() or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise Refusal(f"{shown(name)} is not a package's name in {option.flag}")
    return package_name(name)


def uv_arguments(options: Iterable[PipOption]) -> list[str]:
    """Return the options of a spec as arguments of ``uv pip compile`` and ``uv pip install``, in their order."""
    arguments: list[str] = []
    for option in options:
        arguments += _BY_FLAG[option.flag].uv
        if option.value:
            arguments.append(option.value)
    return arguments
