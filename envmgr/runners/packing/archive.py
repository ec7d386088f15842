"""Writing the archive: conda-pack's formats, its ``activate`` and ``conda-unpack``, over a list of entries of ours.

conda-pack's own list of a prefix is not used: it refuses what pip touched, leaves byte-code out, and takes files from
the package cache, which may be collected meanwhile. Nor is its temporary file, which lies in the system's directory and
outlives an interruption.

Archives that several threads compress are written by a thread that nobody asks how it fares: where the disk is full it
would end, and the others wait for ever. So a failed write is kept, and raised between two files.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from conda_pack import core, formats

from envmgr.errors import BuildFailed
from envmgr.runners.packing.contents import Entry

_MOST_THREADS = 8


def write(
    prefix: Path, entries: Sequence[Entry], output: Path, archive_format: str, *, check: Callable[[], None]
) -> None:
    """Write `entries` of `prefix` to the new file `output`; `check` is called between two of them and may raise."""
    with output.open("xb") as file:
        sink = _Sink(file)
        made = formats.archive(
            sink,
            str(output),
            "",
            archive_format,
            n_threads=min(_MOST_THREADS, len(os.sched_getaffinity(0))),
            mtime=int((prefix / "conda-meta" / "history").stat().st_mtime),
        )
        try:
            with made as archive:
                if isinstance(tar := getattr(archive, "archive", None), tarfile.TarFile):
                    tar.tarinfo = _Root
                _fill(archive, prefix, entries, [check, sink.check])
        except Exception as error:
            sink.check()
            if isinstance(error, (core.CondaPackException, ValueError)):  # such as zip, which cannot tell old times
                raise BuildFailed(
                    f"{prefix.name} cannot be packed as {archive_format}: {error}", hint="tar.gz holds everything"
                ) from error
            raise
        sink.check()


def _fill(archive: Any, prefix: Path, entries: Sequence[Entry], checks: Sequence[Callable[[], None]]) -> None:
    packer = core.Packer(str(prefix), archive)
    for entry in entries:
        for check in checks:
            check()
        if entry.target.startswith("conda-meta/"):
            packer.add(core.File(entry.source, entry.target))  # without this host's paths
        else:
            archive.add(entry.source, entry.target)
        if entry.record is not None:
            packer.prefixes.append((entry.target, entry.record.placeholder, entry.record.mode))
    packer.finish()


class _Root(tarfile.TarInfo):
    """A member of root's that all may read and only he may write, whoever packed.

    For root, unpacking, gives files to whom the archive names: not to a user of another host who has the packer's
    number or name, nor with the rights of a setuid program.
    """

    def tobuf(self, *arguments: Any, **options: Any) -> bytes:
        self.uid = self.gid = 0
        self.uname = self.gname = "root"
        self.mode = self.mode & 0o755 | (0o555 if self.isdir() else 0o444)
        return super().tobuf(*arguments, **options)


class _Sink:
    """A file whose `write` never raises; see the module."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._error: OSError | None = None

    def write(self, data: bytes) -> int:
        if self._error is None:
            try:
                return self._file.write(data)
            except OSError as error:
                self._error = error
        return len(data)

    def flush(self) -> None:
        if self._error is None:
            try:
                self._file.flush()
            except OSError as error:
                self._error = error

    def check(self) -> None:
        """Raise what a write could not."""
        if self._error is not None:
            raise self._error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
