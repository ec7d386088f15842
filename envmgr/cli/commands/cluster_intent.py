"""Commands about what the hosts of a cluster share: alias, settings, export, import."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from envmgr import codec, names
from envmgr.cli import options, output
from envmgr.cli.call import Call
from envmgr.cli.commands.cluster import Declared, name_of
from envmgr.errors import UsageError
from envmgr.events import counted

if TYPE_CHECKING:
    from envmgr.wire.cluster import Exported
    from envmgr.wire.tree import Cluster


def set_alias(
    context: typer.Context,
    alias: options.NewAlias,
    x: Declared,
    move: options.Move = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Let an alias stand for a declared environment, on every host."""
    call = Call(context, is_json=as_json, is_quiet=quiet)
    checked = names.alias(alias)
    with call.administration() as administration:
        name = name_of(call, administration, x)
        administration.set_alias(checked, name, move=move)
    call.say(f"{alias} stands for {name} in the cluster")
    call.answer({"alias": alias, "name": name})


def list_aliases(context: typer.Context, as_json: options.AsJson = False, quiet: options.Quiet = False) -> None:
    """List the aliases of the cluster."""
    call = Call(context, is_json=as_json, is_quiet=quiet)
    with call.administration() as administration:
        aliases = sorted(administration.aliases().items())
    record = {"aliases": [{"alias": alias, "name": name} for alias, name in aliases]}
    call.answer(record, lambda: output.write_table(("ALIAS", "NAME"), aliases))


def remove_alias(
    context: typer.Context,
    alias: options.Alias,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Drop an alias of the cluster; the environment stays."""
    call = Call(context, is_json=as_json, is_quiet=quiet)
    checked = names.alias(alias)
    with call.administration() as administration:
        name = administration.remove_alias(checked)
    call.say(f"alias {alias} is gone from the cluster; {name} stays")
    call.answer({"alias": alias, "name": name})


def settings(
    context: typer.Context,
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", show_default=False, help="As in an environment variable."),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class", metavar="CLASS=PACKAGE:VERSION,...", show_default=False,
            help="What hosts of a machine class have, for solving: linux-64=__glibc:2.28.",
        ),
    ] = None,
    unset: Annotated[
        list[str] | None,
        typer.Option("--unset", metavar="KEY|CLASS", show_default=False, help="Take a setting or a class away."),
    ] = None,
    upgrade_format: Annotated[
        bool, typer.Option("--upgrade-format", help="Let the tree be of this envmgr's format: older hosts refuse it.")
    ] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:  # fmt: skip
    """Show or change the settings and machine classes that all hosts of the cluster share.

    A setting of the cluster wins over a host's own files; which settings can be shared, `envmgr settings` says.
    """
    call = Call(context, is_json=as_json, is_quiet=quiet)
    changed: dict[str, object | None] = dict(_pair(word) for word in changes or ())
    declared = dict(_machine_class(word) for word in classes or ())
    taken = unset or []
    changed |= {word: None for word in taken if "-" not in word}  # every class has one, no setting has
    declared |= {word: None for word in taken if "-" in word}
    with call.administration() as administration:
        if changed or declared or upgrade_format:
            found = administration.change_settings(changed, declared or None, upgrade_format=upgrade_format)
        else:
            found = administration.cluster()
    call.answer(dataclasses.asdict(found), lambda: output.write_facts(_facts(found)))


def _pair(word: str) -> tuple[str, object]:
    key, equals, value = word.partition("=")
    if not key or not equals:
        raise UsageError(f"{word!r} is not KEY=VALUE", hint="--unset KEY takes a setting away")
    return key, value


def _machine_class(word: str) -> tuple[str, dict[str, str] | None]:
    name, equals, packages = word.partition("=")
    items = [item.partition(":") for item in packages.split(",") if item]
    if not name or not equals or not all(package and colon for package, colon, _ in items):
        raise UsageError(
            f"--class {word!r} is not CLASS=PACKAGE:VERSION,...", hint="such as linux-64=__glibc:2.28,__cuda:"
        )
    return name, {package: version for package, _, version in items}


def _facts(found: Cluster) -> Sequence[tuple[str, str]]:
    return [
        ("cluster", found.uuid),
        ("format", str(found.format)),
        ("made", f"{output.moment(found.created_at)} by envmgr {found.envmgr_version}"),
        *(("setting", f"{key} = {output.value(value)}") for key, value in sorted(found.settings.items())),
        *(
            ("class", f"{name}: {', '.join(f'{key} {value}'.rstrip() for key, value in sorted(packages.items()))}")
            for name, packages in sorted(found.classes.items())
        ),
    ]


# ------------------------------------------------------------------------------------------------------ as one document


def export(
    context: typer.Context,
    file: Annotated[str | None, typer.Argument(metavar="[FILE]", show_default=False, help="Default: stdout.")] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Write all that the cluster wants as one JSON document, for backup or for another cluster."""
    call = Call(context, is_json=as_json, is_quiet=quiet)
    with call.administration() as administration:
        found = administration.export()
    text = json.dumps(dataclasses.asdict(found), indent=1) + "\n"
    if file is None or file == "-":
        output.write_text(text)
        return
    try:
        with open(file, "w", encoding="utf-8") as out:
            out.write(text)
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}") from error
    call.say(f"wrote {counted(len(found.environments), 'environment')} to {file}")
    call.answer({"output": os.path.abspath(file), **_counts(found)})


def import_(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE|-", show_default=False, help="What export wrote.")],
    replace: Annotated[bool, typer.Option("--replace", help="In place of what the cluster wants now.")] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Put what export wrote into a cluster that has nothing declared yet, or with --replace into any."""
    call = Call(context, is_json=as_json, is_quiet=quiet)
    data, source = _read(call, file)
    try:
        document = codec.load(_exported(), json.loads(data))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{source} is no exported intent: {error}", hint="envmgr cluster export writes one") from error
    with call.administration() as administration:
        cluster = administration.import_(document, replace=replace)
    call.say(f"the cluster wants {counted(len(document.environments), 'environment')} of {source}")
    call.answer({"uuid": cluster.uuid, **_counts(document)})


def _read(call: Call, file: str) -> tuple[bytes, str]:
    """Return all of a file or of standard input, and what to call it: larger than any spec, it has many lockfiles."""
    try:
        return call.read(file, most_bytes=-1) if file == "-" else (Path(file).read_bytes(), file)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from error


def _exported() -> type[Exported]:
    from envmgr.wire.cluster import Exported  # noqa: PLC0415 - only here

    return Exported


def _counts(document: Exported) -> dict[str, int]:
    return {
        "environments": len(document.environments),
        "aliases": len(document.aliases),
        "lockfiles": len(document.lockfiles),
    }
