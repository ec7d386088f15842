"""A ready environment as one archive that works where there is no envmgr: for ``spark.archives``, YARN, Orca.

The archive holds the prefix as it is, byte-code and what pip installed included, and what conda-pack adds to it:
``bin/activate`` and ``bin/conda-unpack``. Left out is what makes it envmgr's: the interpreter's hook that leases, and
the mark that conda may not change it. Scripts find their interpreter beside themselves. What else has the prefix's
path inside is put right by ``conda-unpack``, which imports and plain programs of Python do not need.

It is made once for a lockfile and a format (`envmgr.store.packs`): by the store's owner in the store, by everybody
else in the directory ``envmgr/packs`` below ``XDG_CACHE_HOME``, of which not more than `OWN_BYTES` are kept, so that
nobody has to ask the daemon for minutes of its processor. Of many callers one packs, the others wait for it; whoever is
interrupted leaves nothing. The environment is leased meanwhile, by the caller.

Not promised: an archive is for hosts of the same machine class, as the environment is; libraries of packages that
ask for a placeholder that is longer than the new path are put right by conda-unpack alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from envmgr import fsio
from envmgr.errors import Cancelled, TimedOut, UsageError
from envmgr.store import opening, packs, records
from envmgr.store.layout import Layout
from envmgr.store.packs import FORMATS, Pack, Packs

if TYPE_CHECKING:
    from envmgr.ready import Lease

__all__ = ["FORMATS", "OWN_BYTES", "Packed", "checked_format", "format_of", "pack"]

OWN_BYTES = 20 << 30
"""What a user who does not own the store keeps of archives at most, the least recently used going first."""
_PAUSE_S = 0.02
_SHORT = {"tgz": "tar.gz", "tbz2": "tar.bz2", "txz": "tar.xz"}


@dataclass(frozen=True, slots=True)
class Packed:
    """An archive that was given: where, in which format, and whether it had been made before (`was_there`)."""

    path: Path
    archive_format: str
    size_bytes: int
    sha256: str
    lock_digest: str
    was_there: bool


def pack(
    lease: Lease,
    output: Path,
    *,
    archive_format: str | None = None,
    timeout_s: float | None = None,
    is_cancelled: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda _words: None,
    own_bytes: int = OWN_BYTES,
) -> Packed:
    """Write the leased environment to `output`, which is replaced in one step; the file is read-only.

    The format is that of the file's name unless `archive_format` (one of `FORMATS`) says otherwise. Blocks: seconds for
    each hundred megabytes, or until another process has packed it. `say` hears in words what takes long. Raises
    `UsageError` for a format or a path that cannot be, `TimedOut`, `NoSpace`, `PermissionRefused`.
    """
    chosen = checked_format(output, archive_format)
    _, lock_digest = records.read_digests(Layout(Path(lease.root)), lease.name, lease.build_id)
    turn = _Turn(lease, lock_digest, chosen, _deadline(timeout_s), is_cancelled, say, own_bytes)
    try:
        while True:
            found, was_there = turn.found_or_made()
            if _give(found.path, output):
                return Packed(output, chosen, found.size_bytes, found.sha256, lock_digest, was_there)
    except OSError as error:
        ours = opening.translate(error, output)
        raise ours from (None if ours is error else error)


def checked_format(output: Path, archive_format: str | None = None) -> str:
    """Return the format (see `format_of`) of an archive that can be written at `output`; see `pack` for errors."""
    chosen = format_of(output, archive_format)
    if output.is_dir() or not output.parent.is_dir():
        what = "is a directory" if output.is_dir() else "is in no directory that is there"
        raise UsageError(f"{output} {what}", hint="name the archive's file")
    probe = _temporary(output)
    try:
        probe.touch(exist_ok=False)  # or it would be known only after minutes of packing
        probe.unlink()
    except OSError as error:
        ours = opening.translate(OSError(error.errno, error.strerror, str(output)), output)
        unknown = UsageError(f"cannot write {output}: {error.strerror}", hint="choose another directory")
        raise (unknown if isinstance(ours, OSError) else ours) from error
    return chosen


def format_of(output: Path, archive_format: str | None = None) -> str:
    """Return the format that was asked for, or that the file's name means; `UsageError` for one that is not known."""
    if archive_format is not None:
        found = _SHORT.get(archive_format, archive_format)
        if found in FORMATS:
            return found
        raise UsageError(f"no archive format {archive_format!r}", hint=f"one of {', '.join(FORMATS)}")
    for suffix in (*FORMATS, *_SHORT):
        if output.name.endswith(f".{suffix}"):
            return _SHORT.get(suffix, suffix)
    hint = f"an ending or --format: one of {', '.join(FORMATS)}"
    raise UsageError(f"{output.name} does not tell the archive's format", hint=hint)


@dataclass(frozen=True, slots=True)
class _Turn:
    """One call's way to the archive of one build."""

    lease: Lease
    lock_digest: str
    archive_format: str
    deadline: float | None
    is_cancelled: Callable[[], bool]
    say: Callable[[str], None]
    own_bytes: int

    def found_or_made(self) -> tuple[Pack, bool]:
        """Return the archive, and whether it was there."""
        places = _places(self.lease.root)
        for place in places:
            if (found := place.find(self._path(place))) is not None:
                place.note_use(found)
                return found, True
        own = places[-1]
        own.directory.mkdir(parents=True, exist_ok=True)
        has_told = False
        while True:
            with own.try_lock(self.lease.name) as is_held:
                found = own.find(self._path(own))  # another one's, of this very moment or of an hour ago
                if found is not None:
                    return found, True
                made = self._make(own) if is_held else None
            if made is not None:
                if len(places) > 1:
                    bound(own, self.own_bytes, made.path)
                return made, False
            if not has_told:
                self.say(f"another process packs {self.lease.name}; waiting for it")
                has_told = True
            self.check()
            time.sleep(_PAUSE_S)

    def _path(self, place: Packs) -> Path:
        return place.path(self.lease.name, self.lock_digest, self.archive_format)

    def _make(self, place: Packs) -> Pack:
        from envmgr.runners.packing import archive, contents  # noqa: PLC0415 - only whoever packs pays for conda_pack

        for leftover in place.leftovers(self.lease.name):
            _delete(leftover)
        temporary, stage = place.temporary(self.lease.name), place.temporary(self.lease.name)
        try:
            stage.mkdir()
            files = contents.of_prefix(self.lease, stage, check=self.check)
            self.say(f"packing {len(files)} files of {self.lease.name}")
            archive.write(Path(self.lease.prefix), files, temporary, self.archive_format, check=self.check)
            return place.keep(temporary, self._path(place), _sha256(temporary))
        finally:
            _delete(stage)
            _delete(temporary)

    def check(self) -> None:
        """Raise when the caller does not want it any more."""
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise TimedOut(
                f"{self.lease.name} was not packed in time", hint="a longer --timeout; nothing was left behind"
            )
        if self.is_cancelled():
            raise Cancelled(f"packing {self.lease.name} was cancelled")


def _deadline(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else time.monotonic() + timeout_s


def _places(root: str) -> list[Packs]:
    """Return where archives are looked for; the last one is where this user keeps them."""
    of_store = Packs(Layout(Path(root)).packs)
    if os.stat(f"{root}/owner").st_uid == os.geteuid():
        return [of_store]
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return [of_store, Packs(Path(cache) / "envmgr" / "packs")]


def bound(place: Packs, most_bytes: int, spared: Path) -> None:
    """Delete what was not used for longest until the rest, of which `spared` is one, is not more than `most_bytes`.

    Not what somebody packs at this moment: its archive may be there, and the note that says when it was used not yet.
    Who packs it bounds after that. The caller holds the lock of no name.
    """
    left = most_bytes
    archives = [(path == spared, place.used_at(path), path, name) for name, _, path in place.archives()]
    for is_spared, _, path, name in sorted(archives, reverse=True):
        with contextlib.suppress(FileNotFoundError):  # who packed another environment deletes the same ones
            left -= path.stat().st_size
        if left < 0 and not is_spared:
            with place.try_lock(name) as is_held:
                for file in packs.files_of(path) if is_held else ():
                    file.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _give(archive: Path, output: Path) -> bool:
    """Let `output` be the archive, or tell that it was collected this very moment.

    It is another link to the archive where that is ours and on that file system, else a copy. What is ours and
    read-only can be linked without harm: no program writes into it by mistake.
    """
    temporary = _temporary(output)
    try:
        if not (archive.stat().st_uid == os.geteuid() and _link(archive, temporary)):
            _copy(archive, temporary)
        # Where both are links to the same file, this does nothing, and the temporary one is there still.
        os.replace(temporary, output)
    except FileNotFoundError:
        if archive.exists():
            raise
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _temporary(output: Path) -> Path:
    return output.with_name(f"{fsio.TEMPORARY}{output.name}-{os.urandom(6).hex()}")


def _link(archive: Path, target: Path) -> bool:
    try:
        os.link(archive, target)
    except FileNotFoundError:
        raise
    except OSError:
        return False
    return True


def _copy(archive: Path, target: Path) -> None:
    shutil.copyfile(archive, target)
    fd = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fchmod(fd, 0o444)
        os.fsync(fd)
    finally:
        os.close(fd)


def _delete(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)
