"""Commands for whoever runs a host's service: install, uninstall, status. They import the service inside themselves."""

# ruff: noqa: PLC0415 - the service's package, where it is needed

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from envmgr.cli import options, output
from envmgr.cli.call import Call
from envmgr.events import counted

if TYPE_CHECKING:
    from envmgr.service.state import State


def install(
    context: typer.Context,
    prefix: Annotated[
        str | None,
        typer.Option("--prefix", metavar="DIR", show_default=False, help="Where its files go; default: /opt/envmgr."),
    ] = None,
    admin_group: Annotated[
        str | None,
        typer.Option("--admin-group", metavar="G", show_default=False, help="Its members may do all that root may."),
    ] = None,
    use_group: Annotated[
        str | None,
        typer.Option("--use-group", metavar="G", show_default=False, help="Only its members may use the socket."),
    ] = None,
    start: Annotated[bool, typer.Option("--start", help="Start it now.")] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Install envmgr as a service of this host, or upgrade it; as root.

    Copies this installation of envmgr (nothing is downloaded), makes the user envmgr and the groups, writes the units
    and, if there is none, a commented /etc/envmgr/settings.toml. Done again it upgrades: a daemon that runs finishes
    its builds, for up to 30 s, and is started anew; environments and what runs in them stay.
    """
    from envmgr.service import installation, places
    from envmgr.service.host import Host

    call = Call(context, is_json=as_json, is_quiet=quiet)
    installed = installation.install(
        Host(call.say),
        None if prefix is None else places.checked_prefix(prefix),
        admin_group=installation.checked_group("--admin-group", admin_group),
        use_group=installation.checked_group("--use-group", use_group),
        start=start,
    )
    call.answer(installed.to_json())


def uninstall(
    context: typer.Context,
    purge: Annotated[bool, typer.Option("--purge", help="Remove the store, settings and user, too.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Purge although environments are in use.")] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Take the service off this host; as root.

    The store stays, and jobs that run in its environments go on. With --purge it is deleted, which is refused while an
    environment is in use (exit code 7).
    """
    from envmgr.service import removal
    from envmgr.service.host import Host

    call = Call(context, is_json=as_json, is_quiet=quiet)
    kept = removal.uninstall(Host(call.say), purge=purge, force=force)
    for path in kept:
        call.say(f"{path} stays")
    call.answer({"kept": [str(path) for path in kept]})


def status(context: typer.Context, as_json: options.AsJson = False, quiet: options.Quiet = False) -> None:
    """Show what is installed and how it does: units, socket, versions, store."""
    from envmgr.service import state

    call = Call(context, is_json=as_json, is_quiet=quiet)
    found = state.look()
    call.answer(found.to_json(), lambda: output.write_facts(_facts(found)))


def _facts(found: State) -> list[tuple[str, str]]:
    facts = [
        ("installed", found.prefix or "no"),
        ("version", found.version or "-"),
        ("this envmgr", found.this_version),
    ]
    for unit in found.units:
        text = (
            f"{unit.active} ({unit.sub}), {unit.enabled or 'not installed'}" if unit.active else "systemd does not run"
        )
        text += f", pid {unit.pid}" if unit.pid else ""
        text += f", restarted {counted(unit.restarts, 'time')}" if unit.restarts else ""
        facts.append((unit.name, text + (f": {unit.says}" if unit.says else "")))
    facts.append(("socket", f"{found.socket}, mode {found.mode}, group {found.group}" if found.has_socket else "-"))
    count = "-" if found.environments is None else counted(found.environments, "environment")
    facts.append(("store", f"{found.root}: {count}" + (f", owner {found.owner}" if found.owner else "")))
    return facts
