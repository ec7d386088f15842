"""The command that makes an archive of an environment: pack."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from envmgr import ready
from envmgr.cli import options, output
from envmgr.cli.call import Call, is_file
from envmgr.cli.commands import make
from envmgr.errors import UsageError

if TYPE_CHECKING:
    from envmgr.ready import Lease


def pack(
    context: typer.Context,
    x: options.Environment,
    out: Annotated[
        str | None,
        typer.Option("-o", "--output", metavar="OUT", show_default=False, help="The archive; replaced.  [required]"),
    ] = None,
    archive_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            show_default=False,
            help="tar.gz, zip, tar, tar.bz2 or tar.xz, whatever OUT is called.",
        ),
    ] = None,
    timeout: options.Timeout = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Make an archive of an environment that works without envmgr.

    For spark.archives, YARN and Orca's penv_archive. X may be a file, whose environment is made first if need be. The
    archive is kept and made once for a lockfile: then OUT, which is read-only, is another link to it where it can be.
    The environment works where it is unpacked; bin/conda-unpack, in it, puts its path into what wants to know it.
    """
    from envmgr.runners import packing  # noqa: PLC0415 - the other commands do without

    call = Call(context, is_json=as_json, is_quiet=quiet)
    timeout_s = options.seconds(timeout)
    if not out:
        raise UsageError("the archive is not named", hint="envmgr pack X -o env.tar.gz")
    packing.checked_format(Path(out), archive_format)  # before anything is built
    lease = _lease(call, x, timeout_s)
    try:
        found = packing.pack(lease, Path(out), archive_format=archive_format, timeout_s=timeout_s, say=call.say)
    finally:
        lease.close()
    call.say(f"{out}: {output.size(found.size_bytes)}{', made before' if found.was_there else ''}")
    call.answer({
        "name": lease.name,
        "output": str(found.path.absolute()),
        "format": found.archive_format,
        "size_bytes": found.size_bytes,
        "sha256": found.sha256,
        "lock_digest": found.lock_digest,
        "was_there": found.was_there,
    })  # fmt: skip


def _lease(call: Call, word: str, timeout_s: float | None) -> Lease:
    if is_file(word):
        return make.ensure(call, call.document(word), timeout_s=timeout_s)[1].lease
    lease = ready.acquire(call.root, call.name(word))
    if lease is None:
        raise call.not_found(word)
    return lease
