"""Commands that change what is there: remove, alias, pin, unpin, gc. They import the manager inside themselves."""

# ruff: noqa: PLC0415 - the store, where it is needed

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from envmgr import names
from envmgr.cli import options, output
from envmgr.cli.call import Call, is_file
from envmgr.errors import EnvironmentNotFound, UsageError

if TYPE_CHECKING:
    from envmgr.manager.collection import Collected


def remove(
    context: typer.Context,
    x: options.Environment,
    when_free: Annotated[
        bool, typer.Option("--when-free", help="Take the name away now; its files go when nobody uses them.")
    ] = False,
    forget: Annotated[bool, typer.Option("--forget", help="Drop its lockfile, pin and failure, too.")] = False,
    timeout: options.Timeout = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Remove an environment, or drop an alias.

    FILE or NAME removes the environment, ALIAS drops the alias and nothing else. An environment in use is not
    removed: exit code 7, naming the processes; with --when-free only its files stay, until the last of them has ended:
    then the daemon frees them, or where there is none the next create that builds, remove or gc of anything.
    Its lockfile stays, so that create makes the same environment again.
    """
    from envmgr.manager.manager import Manager

    call = Call(context, is_json=as_json, is_quiet=quiet)
    timeout_s = options.seconds(timeout)
    if not is_file(x) and names.is_alias(x):
        if when_free or forget:
            raise UsageError(
                f"{x!r} is an alias, and removing it touches no files",
                hint="--when-free and --forget want FILE or NAME",
            )
        manager, name = call.front_of_existing(x)
        manager.remove_alias(names.Alias(x))
        call.say(f"alias {x} is gone; {name} stays")
        call.answer({"name": name, "alias": x, "build_id": None, "is_deleted": False, "used_by": []})
        return
    manager, name = call.front_of_existing(x)
    with call.progress() as report:
        removed = manager.remove(name, when_free=when_free, forget=forget, timeout_s=timeout_s, report=report)
    if removed.is_deleted:
        call.say(f"{name} is removed")
    else:
        whom = ", ".join(map(str, removed.users)) or "somebody"
        who = "the next create that builds, remove or gc" if isinstance(manager, Manager) else "the daemon"
        call.say(f"{name} is removed; its files stay while {whom} runs, and {who} frees them after that")
    call.answer(
        {
            "name": name,
            "alias": None,
            "build_id": removed.build_id,
            "is_deleted": removed.is_deleted,
            "used_by": [user.to_json() for user in removed.users],
        }
    )


def set_alias(
    context: typer.Context,
    alias: options.NewAlias,
    x: options.Environment,
    move: options.Move = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Let an alias stand for an environment that is there."""
    call = Call(context, is_json=as_json, is_quiet=quiet)
    checked = names.alias(alias)
    manager, name = call.front_of_existing(x)
    manager.set_alias(checked, name, move=move)
    call.say(f"{alias} stands for {name}")
    call.answer({"alias": alias, "name": name})


def list_aliases(context: typer.Context, as_json: options.AsJson = False, quiet: options.Quiet = False) -> None:
    """List every alias with the name that it stands for."""
    from pathlib import Path

    from envmgr.store import publication
    from envmgr.store.layout import Layout

    call = Call(context, is_json=as_json, is_quiet=quiet)
    aliases = publication.all_aliases(Layout(Path(call.root)))
    record = {"aliases": [{"alias": alias, "name": name} for alias, name in aliases.items()]}
    call.answer(record, lambda: output.write_table(("ALIAS", "NAME"), list(aliases.items())))


def remove_alias(
    context: typer.Context,
    alias: options.Alias,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Drop an alias; the environment stays."""
    call = Call(context, is_json=as_json, is_quiet=quiet)
    checked = names.alias(alias)
    if not call.has_store():
        raise EnvironmentNotFound(f"there is no alias {alias!r}", hint="envmgr alias list shows them")
    name = call.front().remove_alias(checked)
    call.say(f"alias {alias} is gone; {name} stays")
    call.answer({"alias": alias, "name": name})


def pin(
    context: typer.Context, x: options.Environment, as_json: options.AsJson = False, quiet: options.Quiet = False
) -> None:
    """Keep an environment from being collected."""
    _pin(Call(context, is_json=as_json, is_quiet=quiet), x, is_pinned=True)


def unpin(
    context: typer.Context, x: options.Environment, as_json: options.AsJson = False, quiet: options.Quiet = False
) -> None:
    """Let an environment be collected again."""
    _pin(Call(context, is_json=as_json, is_quiet=quiet), x, is_pinned=False)


def _pin(call: Call, word: str, *, is_pinned: bool) -> None:
    manager, name = call.front_of_existing(word)
    manager.pin(name, is_pinned=is_pinned)
    call.say(f"{name} is {'pinned' if is_pinned else 'not pinned'}")
    call.answer({"name": name, "is_pinned": is_pinned})


def gc(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be freed, and why.")] = False,
    max_age: Annotated[
        str | None,
        typer.Option(metavar="30d", show_default=False, help="Remove environments not used for longer than this."),
    ] = None,
    max_total: Annotated[
        str | None,
        typer.Option(metavar="50GiB", show_default=False, help="Keep all environments together below this size."),
    ] = None,
    min_age: Annotated[
        str | None,
        typer.Option(metavar="1d", show_default=False, help="Remove none that was made or used more recently."),
    ] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Free what nothing needs, and what the limits want to go.

    That is: leftovers of builds, the trash, cached packages of no environment. Environments go, the least recently used
    first, as the settings gc_... say, or these options instead of them; never one that is in use or pinned.
    """
    from envmgr.manager.collection import Limits
    from envmgr.settings import kinds

    call = Call(context, is_json=as_json, is_quiet=quiet)
    limits = Limits(
        max_age_s=options.value("--max-age", max_age, kinds.DURATION),
        max_total_bytes=options.value("--max-total", max_total, kinds.SIZE),
        min_age_s=options.value("--min-age", min_age, kinds.DURATION),
    )
    found: tuple[Collected, ...] = ()
    if call.has_store():
        with call.progress() as report:
            found = call.front().collect(dry_run=dry_run, limits=limits, report=report)
    freed_bytes = sum(thing.size_bytes for thing in found)
    record = {
        "is_dry_run": dry_run,
        "freed_bytes": freed_bytes,
        "collected": [thing.to_json() for thing in found],
    }
    rows = [(output.size(thing.size_bytes), _what(thing), thing.reason) for thing in found]
    call.answer(record, lambda: output.write_table(("SIZE", "WHAT", "WHY"), rows) if rows else None)
    call.say(f"{output.size(freed_bytes)} {'would be' if dry_run else 'were'} freed")


def _what(thing: Collected) -> str:
    """Return what people call it: an environment's name; of a package, which a digest says nothing of, the reason."""
    if thing.name is not None:
        return thing.name
    return "" if thing.path.parent.parent.name == "pkgs" else str(thing.path)
