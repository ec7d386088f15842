"""The calls that change what there is: env create, create, env remove, remove.

Creating what is there takes milliseconds and no site-packages. Whatever else happens, is told in lines on standard
output (see `envmgr.runners.condahome.program`).

``-p P`` makes P a link to the environment's stable path. Such a link is no alias and holds no lease: while nobody runs
in it, the environment may be collected, and the next creation makes it again.
"""

# ruff: noqa: PLC0415 - each call loads what it needs, after site-packages were added

import os
import sys
import time

from envmgr import client, names, ready
from envmgr.errors import AliasTaken, EnvironmentNotFound, EnvmgrError, InvalidSpec, UsageError
from envmgr.runners.condahome import failures
from envmgr.runners.condahome.program import Home, add_site_packages, check_not_asked_by_envmgr, say, say_json, word_of
from envmgr.runners.condahome.words import TARGET, NotAnsweredError, Words, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeAlias

    from envmgr.client import Environment
    from envmgr.events import Event
    from envmgr.names import EnvName

    Asked: TypeAlias = "str | Mapping[str, object]"  # a file's path, or what was said in words

_YES = {"-y": "", "--yes": ""}
_CREATE = {
    **TARGET, **_YES, "-f": "file=", "--file": "file=", "--no-default-packages": "", "--solver": "solver=",
}  # fmt: skip
_CREATE_OF_PACKAGES = {
    **TARGET, **_YES, "-c": "channel=", "--channel": "channel=", "--override-channels": "override-channels",
    "--no-default-packages": "", "--solver": "solver=", "-k": "", "--strict-channel-priority": "",
}  # fmt: skip
_NOT_NAMES = ("base", "root")


def env_create(home: Home, arguments: "list[str]") -> int:
    """``conda env create [-n N | -p P] [-f FILE]``."""
    words = read(arguments, _CREATE)
    if words.rest:
        raise NotAnsweredError(words.rest[0])
    file = words.one("file") or "environment.yml"
    if "://" in file:
        raise UsageError(f"{file} is not a file of this host", hint="fetch it first")
    spec = os.path.abspath(file)

    def named() -> str:
        add_site_packages()
        label = client.parse(_spec_like(spec), *client.read(_spec_like(spec))).label
        if not label:
            raise UsageError("the environment has no name", hint="-n NAME, or name: in the file")
        return label

    return _create(home, words, spec, named)


def create(home: Home, arguments: "list[str]") -> int:
    """``conda create [-n N | -p P] PACKAGE…``."""
    words = read(arguments, _CREATE_OF_PACKAGES)
    channels = [channel for given in words.values.get("channel", ()) for channel in given.split(",")]
    if words.has("override-channels"):
        channels.append("nodefaults")
    spec = {"channels": channels, "dependencies": words.rest}

    def named() -> str:
        raise UsageError("either -n NAME or -p PREFIX is required")

    return _create(home, words, spec, named)


def _create(home: Home, words: Words, spec: "Asked", named: "Callable[[], str]") -> int:
    check_not_asked_by_envmgr()
    prefix = words.one("prefix")
    if prefix is not None and not _is_of_store(home, prefix):
        path = os.path.abspath(prefix)
        if os.path.lexists(path):  # before anything is built
            add_site_packages()
            _check_link(home, path, client.name(_spec_like(spec)))
        with _ensure(home, spec, None, words) as environment:
            _link(home, path, environment.name)
            return _created(environment, path, words)
    alias = os.path.basename(prefix) if prefix else words.one("name") or named()
    checked = _alias(alias, spec)
    began_at = time.time()
    try:
        with _ensure(home, spec, checked, words) as environment:
            failures.settle(alias, began_at)
            return _created(environment, f"{home.root}/envs/{alias}", words)
    except (EnvmgrError, OSError):
        if not _is_for_people():
            failures.remember(alias)
        raise


def _spec_like(spec: "Asked") -> "os.PathLike[str] | Mapping[str, object]":
    """Return what `envmgr.client` takes: it reads a bare word as an alias."""
    from pathlib import Path

    return Path(spec) if isinstance(spec, str) else spec


def _alias(word: str, spec: "Asked") -> "str | None":
    """Check what follows ``-n``; ``None`` when it is the environment's own name."""
    if names.is_name(word):
        add_site_packages()
        own = client.name(_spec_like(spec))
        if own != word:
            raise UsageError(f"{word} is the name of an environment, and that of this spec is {own}")
        return None
    if word in _NOT_NAMES or not names.is_alias(word):
        raise UsageError(
            f"an environment cannot be called {word!r} here",
            hint=f"1 to {names.ALIAS_MAX_CHARS} letters, digits, '.', '_', '+', '-', beginning with a letter or a "
            "digit, and not ending in .yml",
        )
    return word


def _ensure(home: Home, spec: "Asked", alias: "str | None", words: Words) -> "Environment":
    if isinstance(spec, str) and "site" not in sys.modules:
        try:
            return client.ensure(_spec_like(spec), root=home.root, alias=alias, create=False)
        except (EnvironmentNotFound, ImportError):  # not there, not seen before, or the alias is to be set
            pass
    add_site_packages()
    from envmgr.interruption import signals_raise

    if alias is not None and not _is_for_people():
        failures.begin(alias)
    is_quiet = words.is_json or words.is_quiet
    given = _spec_like(spec)
    try:
        if isinstance(spec, str) and not is_quiet:
            for warning in client.parse(given, *client.read(given)).warnings:
                say(f"warning: {spec}: {warning.message}\n")
        with signals_raise():
            return client.ensure(
                given,
                root=home.root, alias=alias, on_progress=None if is_quiet else _tell,
            )  # fmt: skip
    except EnvmgrError as error:
        raise _explained(error, alias) from error


def _is_for_people() -> bool:
    """Tell whether somebody types: then what he says next is meant, and no clean-up."""
    return sys.stdin is not None and sys.stdin.isatty()


def _explained(error: EnvmgrError, alias: "str | None") -> EnvmgrError:
    if isinstance(error, InvalidSpec) and len(error.problems) > 1:
        lines = [error.message, *(f"  line {it.line}: {it.message}" for it in error.problems)]
        error.message = "\n".join(lines)
    elif isinstance(error, AliasTaken):
        error.message = f"{alias} exists and was made from another spec: {error.message}"
        error.hint = f"choose another name, or drop this one first: envmgr alias remove {alias}"
    return error


def _tell(event: "Event") -> None:
    if event.kind in ("begin", "warning"):
        say(f"{event}\n")


def _created(environment: "Environment", path: str, words: Words) -> int:
    if words.is_json:
        return say_json({"success": True, "prefix": path, "name": environment.name})
    how = "was built" if environment.built else "is there already"
    return say(f"{environment.name} {how}: {path}\n")


def _is_of_store(home: Home, path: str) -> bool:
    """Tell whether a path is one of the store's ``envs``: there, its last part is a name."""
    return os.path.realpath(os.path.dirname(os.path.abspath(path))) == os.path.realpath(f"{home.root}/envs")


def _check_link(home: Home, path: str, name: "EnvName") -> None:
    """Make sure that what stands at `path` is a link to the environment `name`."""
    found = word_of(home.root, path) if os.path.islink(path) else None
    if found is None:
        raise EnvmgrError(f"prefix {path} exists and is no link to an environment of envmgr")
    if ready.resolve_alias(home.root, found) != name:
        raise EnvmgrError(f"prefix {path} leads to {found}, which is another environment than {name}")


def _link(home: Home, path: str, name: "EnvName") -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        os.symlink(f"{home.root}/envs/{name}", path)
    except FileExistsError:
        _check_link(home, path, name)


# --------------------------------------------------------------------------------------------------------- to drop them


def env_remove(home: Home, arguments: "list[str]") -> int:
    """``conda env remove -n N | -p P``."""
    words = read(arguments, {**TARGET, **_YES})
    if words.rest:
        raise NotAnsweredError(words.rest[0])
    return _remove(home, words)


def remove(home: Home, arguments: "list[str]") -> int:
    """``conda remove -n N --all``; packages are not taken out of an environment."""
    words = read(arguments, {**TARGET, **_YES, "--all": "all"})
    if words.rest or not words.has("all"):
        raise NotAnsweredError("")
    return _remove(home, words)


def _remove(home: Home, words: Words) -> int:
    prefix = words.one("prefix")
    if prefix is not None:
        path = os.path.abspath(prefix)
        if not _is_of_store(home, prefix):
            if not os.path.islink(path) or word_of(home.root, path) is None:
                raise EnvmgrError(f"{path} is no link to an environment of envmgr")
            os.unlink(path)
            return _dropped(words, f"{path} is gone; the environment stays")
        word = os.path.basename(path)
    else:
        word = words.one("name") or ""
    if not word:
        raise UsageError("which environment?", hint="-n NAME")
    if names.is_name(word):
        raise EnvmgrError(
            f"{word} is an environment itself, which others may use", hint=f"envmgr remove {word}, or no one at all: "
            "envmgr frees what has not been used for long",
        )  # fmt: skip
    alias = names.alias(word)
    if failures.take(alias):
        return _dropped(words, f"{word} could not be created a moment ago: there is nothing to remove")
    add_site_packages()
    from envmgr import wiring

    name = wiring.front(home.root).remove_alias(alias)
    return _dropped(words, f"{word} is gone; {name} stays for whoever uses it")


def _dropped(words: Words, text: str) -> int:
    return say_json({"success": True}) if words.is_json else say(f"{text}\n")
