"""Installs or upgrades the service.

In this order, so that a failure at any step leaves what was installed before at work: checks, users, the new version
beside the old one, units, settings, links, the switch of ``current``, and last the restart, in which the daemon drains.
Environments, leases and the processes that use them are not touched.
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import re
from dataclasses import dataclass
from pathlib import Path

from envmgr.errors import Corrupt, EnvmgrError, PermissionRefused, UsageError
from envmgr.service import places, runtime
from envmgr.service.host import Host, check_root, is_booted
from envmgr.settings import listing
from envmgr.store import opening
from envmgr.store.layout import Layout

_SETTINGS_HEAD = """\
# Settings of envmgr on this host. A line without its # counts; `envmgr settings` shows what is in force, and
# `systemctl reload envmgr.service` lets the daemon read them again.
# They count for every store of this host, users' own included; what is meant for the service alone belongs into
# /var/lib/envmgr/settings.toml. Passwords belong into neither: see `systemctl cat envmgr.service` on LoadCredential=.

"""
_GROUP = r"[a-z_][a-z0-9_-]{0,30}"


@dataclass(frozen=True, slots=True)
class Installed:
    """What there is now; `previous` is the version before, and `is_running` whether the daemon runs."""

    prefix: Path
    version: str
    previous: str | None
    is_running: bool

    def to_json(self) -> dict[str, object]:
        return {
            "prefix": str(self.prefix),
            "version": self.version,
            "previous_version": self.previous,
            "is_running": self.is_running,
        }


def install(
    host: Host, prefix: Path | None = None, *, admin_group: str | None, use_group: str | None, start: bool
) -> Installed:
    """Install or upgrade the service; ``None`` leaves prefix and group of the socket as they are installed.

    Raises `PermissionRefused` without root, where a store stands in the way that is not the service's, and where the
    service's user could not start the interpreter.
    """
    check_root("installing")
    before = os.umask(0o022)  # everybody reads what is installed, whatever root's own habit
    try:
        return _install(host, prefix, admin_group, use_group, start=start)
    finally:
        os.umask(before)


def _install(
    host: Host, prefix: Path | None, admin_group: str | None, use_group: str | None, *, start: bool
) -> Installed:
    installed = places.installed_prefix()
    if None not in (prefix, installed) and prefix != installed:
        raise UsageError(
            f"the service is installed below {installed} already", hint="envmgr service uninstall keeps its store"
        )
    prefix = prefix or installed or places.PREFIX
    use_group = use_group or places.installed_use_group()
    _check_store()
    user = _make_user(host, [group for group in (admin_group, use_group) if group])
    previous = runtime.version_of(prefix)
    directory = runtime.make(prefix, user)
    host.say(f"installed envmgr into {directory}")
    texts = places.unit_texts(prefix, use_group)
    is_new_socket = host.write(places.UNITS / places.SOCKET_UNIT, texts[places.SOCKET_UNIT])
    host.write(places.UNITS / places.SERVICE_UNIT, texts[places.SERVICE_UNIT])
    _write_settings(host, {"admin_group": admin_group, "use_group": use_group})
    host.link(prefix / "current", Path("versions", directory.name))
    for name in places.COMMAND_NAMES:
        _link_command(host, name, prefix)
    host.change("systemctl", "enable", places.SERVICE_UNIT, places.SOCKET_UNIT)
    if not is_booted():
        host.say("systemd does not run here: the service starts when this system boots")
        return Installed(prefix, directory.name, previous, is_running=False)
    host.change("systemctl", "daemon-reload")
    try:
        is_running = _start(host, start=start, is_new_socket=is_new_socket)
    except EnvmgrError as error:
        hint = f"journalctl -u {places.SERVICE_UNIT} says why"
        if previous is not None:
            hint += f"; back to the version before: ln -sfn versions/{previous} {prefix}/current, and systemctl restart"
        raise EnvmgrError(error.message, hint=hint) from error
    return Installed(prefix, directory.name, previous, is_running)


def _check_store() -> None:
    """Refuse a store of somebody else: systemd would make it the service's, and the daemon would not touch it."""
    owner: int | None = None
    with contextlib.suppress(OSError, Corrupt):
        owner = opening.owner(Layout(places.STORE))[0]
    try:
        entries = set(os.listdir(places.STORE)) - {"settings.toml"}
        owner = places.STORE.stat().st_uid if owner is None else owner
    except FileNotFoundError:
        return
    try:
        service_uid: int | None = pwd.getpwnam(places.USER).pw_uid
    except KeyError:
        service_uid = None
    if entries and owner != service_uid:
        raise PermissionRefused(
            f"{places.STORE} is there already and belongs to uid {owner}, not to the user {places.USER}",
            hint=f"a store cannot change its owner; move it away (mv {places.STORE} {places.STORE}.old), and let the "
            "service build its environments anew",
            uid=owner,
        )


def _make_user(host: Host, groups: list[str]) -> pwd.struct_passwd:
    """Make the service's user and the groups that are not there yet, local or from a directory service."""
    lines = [f'u {places.USER} - "envmgr daemon" {places.STORE} -']
    for group in groups:
        try:
            grp.getgrnam(group)
        except KeyError:
            lines.append(f"g {group} -")
            host.say(f"there is no group {group}: it is made, without members")
    # Groups that this file made before stay in it: it is also what makes them again on a system image.
    with contextlib.suppress(FileNotFoundError):
        lines += [line for line in places.USERS_FILE.read_text().splitlines() if line not in lines]
    host.write(places.USERS_FILE, "\n".join(lines) + "\n")
    host.change("systemd-sysusers", places.USERS_FILE)
    return pwd.getpwnam(places.USER)


def _write_settings(host: Host, groups: dict[str, str | None]) -> None:
    given = {key: json.dumps(group) for key, group in groups.items() if group}
    if not places.SETTINGS.exists():
        text = _SETTINGS_HEAD + listing.commented_file()
        for key, value in given.items():
            text = text.replace(f'#{key} = ""\n', f"{key} = {value}\n")
        host.write(places.SETTINGS, text)
        return
    lines = places.SETTINGS.read_text(encoding="utf-8").splitlines()
    for key, value in given.items():
        if f"{key} = {value}" not in lines:
            host.say(f"{places.SETTINGS} is left as it is; it should say: {key} = {value}")


def _link_command(host: Host, name: str, prefix: Path) -> None:
    path, target = places.COMMANDS / name, prefix / "current" / "bin" / name
    if path.exists() and not places.is_own_link(path, prefix):
        host.say(f"{path} is another program and left as it is; the service's is {target}")
    else:
        host.link(path, target)


def _start(host: Host, *, start: bool, is_new_socket: bool) -> bool:
    """Bring units that run to the new version, and with `start` all of them; tell whether the daemon runs."""
    host.run("systemctl", "reset-failed", places.SOCKET_UNIT, places.SERVICE_UNIT)
    has_socket, has_daemon = is_active(host, places.SOCKET_UNIT), is_active(host, places.SERVICE_UNIT)
    if has_socket and is_new_socket:
        # A socket is only opened anew while its service is down.
        host.change("systemctl", "stop", places.SERVICE_UNIT, places.SOCKET_UNIT)
    if start or has_socket:
        host.change("systemctl", "start", places.SOCKET_UNIT)
    if start or has_daemon:
        host.change("systemctl", "restart", places.SERVICE_UNIT)
    else:
        start_it = f"systemctl start {places.SOCKET_UNIT} {places.SERVICE_UNIT}"
        host.say(f"start it with: {start_it}; before its first start users have stores of their own")
    return is_active(host, places.SERVICE_UNIT)


def is_active(host: Host, unit: str) -> bool:
    """Tell whether a unit is up."""
    state = host.run("systemctl", "show", "--value", "--property=ActiveState", unit).strip()
    return state in ("active", "reloading")


def checked_group(option: str, word: str | None) -> str | None:
    """Return a group's name; `UsageError` unless it can be one."""
    if word is not None and not re.fullmatch(_GROUP, word):
        raise UsageError(f"{option} {word!r} is no name of a group", hint="lower-case letters, digits, - and _")
    return word
