"""Takes the service off a host.

The store stays, and so do its user and its settings, unless they are to be purged. Jobs that run in environments go on:
their files are the store's. So only a purge refuses while environments are in use.
"""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

from envmgr import wiring
from envmgr.errors import EnvironmentInUse, EnvmgrError
from envmgr.model import Usage
from envmgr.service import places
from envmgr.service.host import Host, check_root, is_booted

_UNITS = (places.SERVICE_UNIT, places.SOCKET_UNIT)


def uninstall(host: Host, *, purge: bool, force: bool) -> tuple[Path, ...]:
    """Remove the service; with `purge` the store, settings, drop-ins and user, too. Return what stays.

    Raises `EnvironmentInUse` before anything is changed when `purge` would delete what processes use, unless `force`.
    """
    check_root("removing")
    prefix = places.installed_prefix() or places.PREFIX
    if purge and not force and places.STORE.exists():
        _check_unused()
    _remove_units(host)
    for name in places.COMMAND_NAMES:
        if places.is_own_link(places.COMMANDS / name, prefix):
            host.remove(places.COMMANDS / name)
    for path in (prefix / "current", prefix / "versions", places.SOCKET_DIRECTORY):
        host.remove(path)
    if prefix.is_dir() and not os.listdir(prefix):
        prefix.rmdir()
    kept = [places.STORE, places.SETTINGS.parent, places.USERS_FILE]
    kept += [places.UNITS / f"{unit}.d" for unit in _UNITS]
    if purge:
        for path in kept:
            host.remove(path)
        _remove_user(host)
    return tuple(path for path in kept if path.exists())


def _remove_units(host: Host) -> None:
    there = [unit for unit in _UNITS if (places.UNITS / unit).exists()]
    if not there:
        host.say("no service is installed here; what is left of one goes")
        return
    if is_booted():
        host.change("systemctl", "stop", *there)
    host.change("systemctl", "disable", *there)
    for unit in there:
        host.remove(places.UNITS / unit)
    if is_booted():
        host.change("systemctl", "daemon-reload")


def _check_unused() -> None:
    users: list[Usage] = []
    try:
        for info in wiring.manager(str(places.STORE), writable=False).list():
            users += info.used_by
    except EnvmgrError as error:
        raise EnvmgrError(
            f"cannot tell whether environments of {places.STORE} are in use: {error.message}",
            hint="--force removes them all the same",
        ) from error
    if users:
        raise EnvironmentInUse(
            f"environments of {places.STORE} are in use by {', '.join(map(str, users))}",
            users,
            hint="nothing was removed; --force removes them from under these processes",
        )


def _remove_user(host: Host) -> None:
    try:
        pwd.getpwnam(places.USER)
    except KeyError:
        return
    if shutil.which("userdel"):
        host.change("userdel", places.USER)
    else:
        host.say(f"the user {places.USER} stays: there is no userdel here")
