"""Commands for sites without a network: bundle export, bundle import.

They work on the store itself, also beside its daemon; whoever owns the store imports.
"""

# ruff: noqa: PLC0415 - the manager, where it is needed

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from envmgr.cli import options, output
from envmgr.cli.call import Call
from envmgr.errors import UsageError
from envmgr.events import counted

if TYPE_CHECKING:
    from envmgr.manager.bundles import Manifest


def export(
    context: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(metavar="X... FILE", show_default=False, help="Environments that are ready, and the new file."),
    ],
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Write environments into one file: their specs, their lockfiles, and every archive.

    What pip built from source does not travel: exit code 11 names it.
    """
    from envmgr.manager import bundles

    call = Call(context, is_json=as_json, is_quiet=quiet)
    *xs, file = words
    if not xs:
        raise UsageError("the file is missing, or the environments", hint="envmgr bundle export X... FILE")
    names = [call.name(x) for x in xs]
    manifest = bundles.export(call.manager(writable=False).context, names, Path(os.path.abspath(file)))
    call.say(f"wrote {_words(manifest)} to {file}")
    call.answer({"output": os.path.abspath(file), **_record(manifest)})


def import_(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", show_default=False, help="What export wrote.")],
    timeout: options.Timeout = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Put what export wrote into this store, each archive checked by its SHA-256.

    Prints the names. From then on create builds them without a network; set `offline = true` where there is none.
    """
    from envmgr.manager import bundles

    call = Call(context, is_json=as_json, is_quiet=quiet)
    timeout_s = options.seconds(timeout)
    manifest = bundles.import_(call.manager(writable=True).context, Path(os.path.abspath(file)), timeout_s=timeout_s)
    call.say(f"took {_words(manifest)} from {file}")
    call.answer(_record(manifest), "".join(f"{it.spec.name}\n" for it in manifest.environments))


def _words(manifest: Manifest) -> str:
    environments = counted(len(manifest.environments), "environment")
    archives = counted(len(manifest.archives), "archive")
    return f"{environments} with {archives}, {output.size(manifest.size_bytes)},"


def _record(manifest: Manifest) -> dict[str, object]:
    return {
        "environments": [
            {"name": it.spec.name, "label": it.spec.label, "machine_class": it.machine_class}
            for it in manifest.environments
        ],
        "archives": len(manifest.archives),
        "size_bytes": manifest.size_bytes,
    }
