"""Commands that change what a cluster wants: create, remove, relock, retry, heal, cordon, uncordon, forget.

Each is asked of the store's daemon where one answers, else of the cluster's ZooKeeper itself. What is declared stays
declared, whatever becomes of the command that waits for it.
"""

# ruff: noqa: PLC0415 - the parser's records, where a spec is declared

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from envmgr import codec, names
from envmgr.cli import options, rollout
from envmgr.cli.call import Call, is_file
from envmgr.cluster.rollout import Bound, summary
from envmgr.errors import CoordinatorUnavailable, DaemonUnavailable, EnvironmentNotFound, TimedOut, UsageError
from envmgr.events import counted

if TYPE_CHECKING:
    from envmgr.names import EnvName
    from envmgr.ports import Administration
    from envmgr.wire.cluster import DeclaredEnvironment

Declared = Annotated[
    str,
    typer.Argument(
        metavar="X", show_default=False, help="A spec's file (with / or ending in .yml, .yaml), a name or an alias."
    ),
]
HostName = Annotated[str, typer.Argument(metavar="HOST", show_default=False, help="What the cluster calls the host.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until every host that lives has done its part.")]


def name_of(call: Call, administration: Administration, word: str) -> EnvName:
    """Return the name that a file, a name or an alias of the cluster stands for."""
    return call.document(word).spec.name if is_file(word) else administration.resolve(word)


def create(
    context: typer.Context,
    file: options.SpecFile,
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host", metavar="H", show_default=False, help="This host (may be repeated); waited for even when away."
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="K=V", show_default=False, help="Hosts with this label (all of several)."),
    ] = None,
    everywhere: Annotated[
        bool, typer.Option("--all", help="Every host, also those that come later (default).")
    ] = False,
    alias: Annotated[
        str | None, typer.Option(metavar="A", show_default=False, help="Also give it this alias on every host.")
    ] = None,
    move_alias: Annotated[
        bool, typer.Option("--move-alias", help="Take the alias from the environment that has it.")
    ] = False,
    wait: Wait = True,
    timeout: options.Timeout = None,
    max_parallel: Annotated[
        str | None,
        typer.Option(metavar="N|P%", show_default=False, help="So many hosts make it at a time, of those that live."),
    ] = None,
    min_ready: Annotated[
        str | None,
        typer.Option(metavar="N|P%", show_default=False, help="Be content as soon as so many hosts have it."),
    ] = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Declare an environment: every host of the cluster that is meant makes it, from one lockfile.

    Prints its name. Waits until the hosts that live have it; exit code 1 if some could not, saying why. To declare it
    again changes the hosts that are meant. It stays declared when this command is interrupted or its time is up.
    """
    from envmgr.wire.cluster import Declaration
    from envmgr.wire.tree import Selector

    call = Call(context, is_json=as_json, is_quiet=quiet)
    timeout_s = options.seconds(timeout)
    if everywhere and (host or label):
        raise UsageError("--all with --host or --label", hint="--all is what counts without them")
    if move_alias and alias is None:
        raise UsageError("--move-alias without --alias")
    if min_ready is not None and not wait:
        raise UsageError("--min-ready with --no-wait", hint="--min-ready says how long to wait")
    enough = None if min_ready is None else _bound("--min-ready", min_ready)
    bound = Bound() if max_parallel is None else _bound("--max-parallel", max_parallel)
    document = call.spec(file)
    declaration = Declaration(
        spec=json.loads(codec.dump(document.spec)),
        selector=Selector(hosts=tuple(host or ()), labels=_labels(label or ())),
        alias=None if alias is None else names.alias(alias),
        move_alias=move_alias,
        max_parallel=bound.count,
        percent_parallel=bound.percent,
    )
    with call.administration() as administration:
        found = administration.create(declaration)
        call.say(f"{found.name} is declared for {counted(len(found.rows), 'host')}")
        if not found.rows:
            whom = found.selector
            known = f"that the cluster knows is meant ({rollout.meant(whom)})" if whom.labels else "has joined it yet"
            call.say(f"nobody makes it now: no host {known}; one that comes makes it")
        if wait:
            found = _wait(call, administration, found, min_ready=enough, timeout_s=timeout_s)
    call.answer(rollout.record(found), found.name)


def _bound(option: str, text: str) -> Bound:
    try:
        return Bound.parse(text)
    except UsageError as error:
        raise UsageError(f"{option} {error.message}", hint=error.hint) from None


def _labels(words: Sequence[str]) -> Mapping[str, str]:
    pairs = [word.partition("=") for word in words]
    for word, (key, equals, _) in zip(words, pairs, strict=True):
        if not key or not equals:
            raise UsageError(f"--label {word!r} is not K=V", hint="setting host_labels says which a host has")
    return {key: value for key, _, value in pairs}


def _wait(
    call: Call,
    administration: Administration,
    declared: DeclaredEnvironment,
    *,
    min_ready: Bound | None = None,
    timeout_s: float | None = None,
) -> DeclaredEnvironment:
    name = names.EnvName(declared.name)
    for row in declared.rows:
        is_held_up = not row.is_live or row.is_cordoned
        if row.host in declared.selector.hosts and is_held_up and row.success is None:
            why = "the host is cordoned" if row.is_live else "the host is away"
            call.say(f"waiting for {row.host}, too, which was named: {row.message or why}")
    try:
        with (
            rollout.showing(is_quiet=call.is_quiet) as show,
            administration.watching(name, has_progress=show.has_progress) as watching,
        ):
            found = rollout.wait(watching, show, state=declared.state, min_ready=min_ready, timeout_s=timeout_s)
    except (KeyboardInterrupt, TimedOut, CoordinatorUnavailable, DaemonUnavailable):
        what = "what is declared of" if declared.state == "present" else "the removal of"
        call.say(f"{what} {name} stays in force; envmgr cluster show {name} tells how it goes on")
        raise
    call.say(f"{name}: {rollout.words(summary(found))}")
    away = [row.host for row in found.rows if row.success is None and not row.is_live]
    if away:
        call.say(f"away, and to catch up when they are back: {', '.join(away[:10])}{' …' if away[10:] else ''}")
    return found


def remove(
    context: typer.Context,
    x: Declared,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it is gone from every live host.")] = False,
    timeout: options.Timeout = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Take an environment from every host of the cluster, and its aliases with it.

    Its name vanishes everywhere at once; files go on each host when nobody uses them any more. A host that is down
    does its part when it is back.
    """
    call = Call(context, is_json=as_json, is_quiet=quiet)
    timeout_s = options.seconds(timeout)
    with call.administration() as administration:
        found = administration.remove(name_of(call, administration, x))
        call.say(f"{found.name} is to go from {counted(len(found.rows), 'host')}")
        if wait:
            try:
                found = _wait(call, administration, found, timeout_s=timeout_s)
            except EnvironmentNotFound:
                call.say(f"{found.name} is gone from every host")  # and nothing is left to be told of it
    call.answer(rollout.record(found))


def relock(
    context: typer.Context,
    x: Declared,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until every live host has it.")] = False,
    timeout: options.Timeout = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Have an environment solved again, once for all, and replaced on every host.

    Processes that run keep the packages that they started with.
    """
    call = Call(context, is_json=as_json, is_quiet=quiet)
    timeout_s = options.seconds(timeout)
    with call.administration() as administration:
        found = administration.relock(name_of(call, administration, x))
        call.say(f"{found.name} is to be solved again: generation {found.lock_generation} of its lockfile")
        if wait:
            found = _wait(call, administration, found, timeout_s=timeout_s)
    call.answer(rollout.record(found))


def retry(
    context: typer.Context,
    x: Declared,
    host: Annotated[
        str | None, typer.Argument(metavar="[HOST]", show_default=False, help="This host only; default: all.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until every live host is done.")] = False,
    timeout: options.Timeout = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Have what failed tried again at once, on one host or on all; a solve, too."""
    call = Call(context, is_json=as_json, is_quiet=quiet)
    timeout_s = options.seconds(timeout)
    with call.administration() as administration:
        found = administration.retry(name_of(call, administration, x), host)
        call.say(f"{found.name} {_tried_again(found, host)}")
        if wait:
            found = _wait(call, administration, found, timeout_s=timeout_s)
    call.answer(rollout.record(found))


def _tried_again(found: DeclaredEnvironment, host: str | None) -> str:
    if host is None:
        return "is tried again on every host that failed"
    row = next((row for row in found.rows if row.host == host), None)
    if row is None:
        return f"is not declared for {host}: nothing is tried there"
    if not row.is_live:
        return f"is tried again on {host} when it is back"
    return f"is tried again on {host}" + (" once it is uncordoned" if row.is_cordoned else "")


def heal(context: typer.Context, as_json: options.AsJson = False, quiet: options.Quiet = False) -> None:
    """Have every host replace what it built from another lockfile than the cluster's.

    That happens where a host solved by itself while ZooKeeper was away; `envmgr cluster status` shows it as drift.
    """
    call = Call(context, is_json=as_json, is_quiet=quiet)
    with call.administration() as administration:
        cluster = administration.heal()
        drifted = [host.host for host in administration.hosts() if host.drift]
    where = ", ".join(drifted[:10]) + (" …" if drifted[10:] else "")
    if drifted:
        call.say(f"what drifted is brought back in line on {where}")
    else:
        call.say("no host says that anything drifted; one of which nobody has heard heals when it is back")
    call.answer({"uuid": cluster.uuid, "heal": cluster.heal, "drifted_hosts": drifted})


def cordon(
    context: typer.Context, host: HostName, as_json: options.AsJson = False, quiet: options.Quiet = False
) -> None:
    """Let a host begin nothing new; what it has stays, and can be used."""
    _cordon(Call(context, is_json=as_json, is_quiet=quiet), host, is_cordoned=True)


def uncordon(
    context: typer.Context, host: HostName, as_json: options.AsJson = False, quiet: options.Quiet = False
) -> None:
    """Let a host that was cordoned begin work again."""
    _cordon(Call(context, is_json=as_json, is_quiet=quiet), host, is_cordoned=False)


def _cordon(call: Call, host: str, *, is_cordoned: bool) -> None:
    with call.administration() as administration:
        administration.cordon(host, is_cordoned=is_cordoned)
    call.say(f"{host} begins {'nothing new' if is_cordoned else 'work again'}")
    call.answer({"host": host, "is_cordoned": is_cordoned})


def forget(
    context: typer.Context, host: HostName, as_json: options.AsJson = False, quiet: options.Quiet = False
) -> None:
    """Wait no longer for a host that has gone for ever; one that comes back all the same joins anew."""
    call = Call(context, is_json=as_json, is_quiet=quiet)
    with call.administration() as administration:
        administration.forget(host)
    call.say(f"{host} is forgotten")
    call.answer({"host": host})
