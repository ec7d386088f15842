"""Commands that make an environment or tell its name: name, create, lock, relock, repair.

``name`` imports the parser and nothing else; the others import the manager inside themselves.
"""

# ruff: noqa: PLC0415 - `name` owes nothing for what the others need

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from envmgr import ready
from envmgr.cli import options, shapes
from envmgr.cli.call import Call
from envmgr.errors import BuilderDied, BuildFailed, InvalidSpec, LockfileMismatch, UsageError

if TYPE_CHECKING:
    from envmgr.cli.call import Document
    from envmgr.manager.ensure import Ensured
    from envmgr.manager.manager import Manager
    from envmgr.manager.replacement import Replaced
    from envmgr.names import Alias, EnvName
    from envmgr.remote.manager import RemoteManager


def name(
    context: typer.Context, file: options.SpecFile, as_json: options.AsJson = False, quiet: options.Quiet = False
) -> None:
    """Print the name of a spec.

    The name follows from the text alone: no store, no network and no setting is read.
    """
    call = Call(context, is_json=as_json, is_quiet=quiet)
    spec = call.spec(file).spec
    call.answer(shapes.named(spec), spec.name)


def create(
    context: typer.Context,
    file: options.SpecFile,
    alias: Annotated[
        str | None,
        typer.Option(metavar="A", show_default=False, help="Also give it this alias (exit code 7 if taken)."),
    ] = None,
    move: Annotated[bool, typer.Option("--move", help="Take the alias from the environment that has it.")] = False,
    lockfile: Annotated[
        str | None, typer.Option(metavar="F", show_default=False, help="Build exactly this conda-lock.yml, or refuse.")
    ] = None,
    timeout: options.Timeout = None,
    retry: Annotated[bool, typer.Option("--retry", help="Try again at once, although it failed a moment ago.")] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Make the environment of a spec unless it is there.

    Prints its name. Exit code 0 means that it is there and whole, whether it was built now or before. If another
    process is building it, wait and share the result.
    """
    call = Call(context, is_json=as_json, is_quiet=quiet)
    if move and alias is None:
        raise UsageError("--move without --alias", hint="--move says that the alias may be taken from another one")
    checked = None if alias is None else _alias(alias)
    lock_text = None if lockfile is None else _read_lockfile(lockfile)
    document = call.spec(file)
    try:
        manager, ensured = ensure(
            call, document, alias=checked, move=move, lock_text=lock_text, timeout_s=options.seconds(timeout),
            retry=retry,
        )  # fmt: skip
    except (InvalidSpec, LockfileMismatch) as error:
        # The document was read before: this is about the lockfile, whose name only we know.
        error.message = error.message if lockfile is None else f"{lockfile}: {error.message}"
        raise
    try:
        lease = ensured.lease
        record = manager.record(lease.name, lease.build_id)
        if ensured.was_built:
            call.say(f"{lease.name} was built in {ensured.duration_s:.1f} s at {lease.path}")
            for package in record.skipped_link_scripts:
                call.say(f"warning: the link script of {package} was not run (setting allow_link_scripts)")
        for warning in record.warnings if ensured.was_built else ():
            call.say(f"warning: {warning}")
        aliases = aliases_of(manager, lease.name)
        call.answer(
            shapes.created(
                record, lease, aliases=aliases, was_built=ensured.was_built, duration_s=ensured.duration_s,
                spec=document.spec,
            ),
            lease.name,
        )  # fmt: skip
    finally:
        ensured.lease.close()


def ensure(
    call: Call,
    document: Document,
    *,
    alias: Alias | None = None,
    move: bool = False,
    lock_text: str | None = None,
    timeout_s: float | None = None,
    retry: bool = False,
) -> tuple[Manager | RemoteManager, Ensured]:
    """Make the environment of a document unless it is there; return it leased.

    One that is there is anybody's to use: only what has to be written asks the daemon, or the store's owner.
    """
    has_alias = alias is None or ready.resolve_alias(call.root, alias) == document.spec.name
    is_there = has_alias and ready.resolve(call.root, document.spec.name) is not None
    manager = call.manager(writable=False) if is_there else call.front()
    try:
        with call.progress() as report:
            ensured = manager.ensure(
                document.spec, alias=None if is_there else alias, move_alias=move, lock_text=lock_text,
                retry=retry and not is_there, timeout_s=timeout_s, report=report,
            )  # fmt: skip
    except (BuildFailed, BuilderDied) as error:
        error.hint = error.hint or f"envmgr logs {document.spec.name} shows how far it came"
        raise
    if not document.spec.has_includes:
        manager.remember_text(document.data, document.spec.name)
    return manager, ensured


def aliases_of(manager: Manager | RemoteManager, name: EnvName) -> list[Alias]:
    """Return the aliases of a name."""
    return [alias for alias, target in manager.aliases().items() if target == name]


def _alias(text: str) -> Alias:
    from envmgr import names

    return names.alias(text)


def _read_lockfile(path: str) -> str:
    try:
        with open(path, encoding="utf-8-sig") as file:
            return file.read()
    except OSError as error:
        raise UsageError(f"cannot read the lockfile {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidSpec(f"the lockfile {path} is not UTF-8 text") from error


def lock(
    context: typer.Context,
    file: options.SpecFile,
    out: Annotated[
        str | None, typer.Option("--output", "-o", metavar="OUT", show_default=False, help="Write to this file.")
    ] = None,
    timeout: options.Timeout = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Print the lockfile of a spec; build nothing.

    A conda-lock.yml, solved now if this host has none yet; what was printed is what create installs from then on.
    """
    call = Call(context, is_json=as_json, is_quiet=quiet)
    timeout_s = options.seconds(timeout)
    spec = call.spec(file).spec
    manager = call.front()
    with call.progress() as report:
        text = manager.lock(spec, timeout_s=timeout_s, report=report)
    if out is not None:
        _write(out, text)
        call.say(f"wrote {out}")
    from envmgr import lockfile, wiring

    settings = wiring.settings(Path(call.root))
    locked = lockfile.parse(text, settings.subdir)
    record = {
        "name": spec.name,
        "digest": spec.digest,
        "lock_digest": locked.digest,
        "machine_class": settings.machine_class,
        "packages": len(locked.packages),
        "output": None if out is None else os.path.abspath(out),
        "lockfile": text if out is None else None,
    }
    call.answer(record, text if out is None else "")


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def relock(
    context: typer.Context,
    x: options.Environment,
    exclude_newer: Annotated[
        str | None,
        typer.Option(metavar="DATE", show_default=False, help="Act as if nothing published after it existed."),
    ] = None,
    timeout: options.Timeout = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Solve again and replace the environment.

    Processes that run keep the packages that they started with.
    """
    call = Call(context, is_json=as_json, is_quiet=quiet)
    timeout_s = options.seconds(timeout)
    newest = None if exclude_newer is None else _time(exclude_newer)
    manager, name = call.front_of_existing(x)
    with call.progress() as report:
        found = manager.relock(name, exclude_newer=newest, timeout_s=timeout_s, report=report)
    if found.is_new:
        call.say(f"{name} was rebuilt with other packages")
    else:
        call.say(f"{name} was solved again, has the newest packages already, and stays as it is")
    _answer_replaced(call, manager, found)


def _time(text: str) -> str:
    from envmgr.settings import kinds

    try:
        return kinds.time_text(text)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"--exclude-newer {text!r} is not a date", hint="such as 2026-01-31 or 2026-01-31T12:00:00Z"
        ) from error


def repair(
    context: typer.Context,
    x: options.Environment,
    timeout: options.Timeout = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Build the same packages again.

    For what verify found: each file is validated, and the environment replaced. Processes that run keep the old
    files.
    """
    call = Call(context, is_json=as_json, is_quiet=quiet)
    timeout_s = options.seconds(timeout)
    manager, name = call.front_of_existing(x)
    with call.progress() as report:
        found = manager.repair(name, timeout_s=timeout_s, report=report)
    call.say(f"{name} was built again")
    _answer_replaced(call, manager, found)


def _answer_replaced(call: Call, manager: Manager | RemoteManager, found: Replaced) -> None:
    name = found.record.name
    info = manager.show(name)
    record = shapes.replaced(found, path=str(info.path), prefix=str(info.prefix), aliases=info.aliases)
    call.answer(record)
