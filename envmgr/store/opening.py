"""Opening a store: making it where there is none, and refusing what must not be touched.

A store on a file system of the network, or of FUSE, may be written by other hosts, too. Only a cluster can tell, so
that only a host in one asks (`is_on_shared_filesystem`): there its claims are required, and nothing that may be in use
is deleted before hosts have seen each other's locks. A host in no cluster goes on as on any other file system: a
personal store in a home directory on the network is one user's, and what he does on two hosts at once nobody sees.

Refused with a reason and a hint: a store of another owner, one that a newer envmgr wrote, one on a file system where
locks do not exclude or symbolic links cannot be made, a root that is a file or may not be written.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import uuid
from pathlib import Path
from typing import Literal

from envmgr import fsio
from envmgr.errors import Corrupt, NoSpace, PermissionRefused, StoreTooNew, UnsuitableFilesystem, UsageError
from envmgr.fsio import Step
from envmgr.store.layout import FORMAT, Layout

Mode = Literal["personal", "service"]

_MOUNTS = Path("/proc/self/mountinfo")
_SHARED_TYPES = frozenset({
    "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "fhgfs", "gfs2", "gpfs", "lustre", "nfs", "nfs4", "ocfs2",
    "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "virtiofs", "wekafs",
})  # fmt: skip
_FUSE = "fuse"
_LOCAL_FUSE = frozenset({"fuseblk", "fusectl", "fuse.lxcfs", "fuse.fuse-overlayfs", "fuse.ntfs", "fuse.ntfs-3g"})


def open_for_reading(root: Path) -> Layout | None:
    """Return the layout of a store that exists, or ``None``; anybody may, nothing is written."""
    layout = Layout(root)
    try:
        if not layout.owner.exists():
            return None
        _check_format(layout)
    except PermissionError as error:
        raise PermissionRefused(
            f"may not read the store {root}: {error.strerror}",
            hint="its owner must let others search its directories; ENVMGR_ROOT or --root choose another",
        ) from error
    return layout


def open_for_writing(root: Path, mode: Mode = "personal") -> Layout:
    """Return the layout of the store at `root`, made first if it is not there; for its owner only.

    Raises `PermissionRefused`, `StoreTooNew`, `UnsuitableFilesystem`, `NoSpace`.
    """
    layout = Layout(root)
    try:
        if not layout.owner.exists():
            _create(layout, mode)
        _check_format(layout)
        _check_owner(layout)
    except PermissionError as error:
        raise PermissionRefused(
            f"may not write the store {root}: {error.strerror}",
            hint="only the store's owner writes it; ENVMGR_ROOT or --root choose another",
        ) from error
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{root} cannot be a store: {error}") from error
    except OSError as error:
        raise translate(error, root) from error
    return layout


def translate(error: OSError, where: Path) -> Exception:
    """Return the store's own error for one of the operating system, or the same where there is none."""
    if error.errno in fsio.OUT_OF_SPACE:
        return NoSpace(
            f"no space left (bytes, inodes or quota) on the file system of {where}", hint="envmgr gc frees some"
        )
    if error.errno in {errno.EPERM, errno.EACCES, errno.EROFS}:
        return PermissionRefused(f"may not write {error.filename or where}: {error.strerror}")
    return error


def _create(layout: Layout, mode: Mode) -> None:
    for directory in layout.directories():
        mode_bits = 0o700 if directory == layout.locks else 0o755
        fsio.make_directory(Step.STORE, directory, mode=mode_bits, parents=True)
        # Whoever made the directory may have died before he set its mode. Only now: once the store has its owner, the
        # modes are his. The root may be a directory that he made for it, with a mode that he chose.
        if directory != layout.root and not layout.owner.exists():
            fsio.set_directory_mode(Step.STORE, directory, mode_bits)
    check_filesystem(layout)
    document = {"format": FORMAT, "uid": os.geteuid(), "mode": mode}
    # The owner comes last: a store is there when its owner is known. Of two processes that make it at once, the first
    # gives it its identity for good; one that was stopped meanwhile must not change what others have read already.
    for path, text in ((layout.store_id, str(uuid.uuid4())), (layout.owner, json.dumps(document))):
        with contextlib.suppress(FileExistsError):
            fsio.write_file(Step.STORE, path, f"{text}\n".encode(), is_exclusive=True)


def owner(layout: Layout) -> tuple[int, Mode]:
    """Return the uid that owns the store and the store's mode."""
    document = _identity(layout)
    mode = document.get("mode")
    if mode not in ("personal", "service") or not isinstance(document.get("uid"), int):
        raise Corrupt(f"{layout.owner} is damaged")
    return int(str(document["uid"])), "service" if mode == "service" else "personal"


def store_id(layout: Layout) -> str:
    return layout.store_id.read_text(encoding="ascii").strip()


def renew_store_id(layout: Layout) -> str:
    """Give a store that was copied an id of its own, durably; for its only daemon, before anything uses the id."""
    found = str(uuid.uuid4())
    fsio.write_file(Step.STORE, layout.store_id, f"{found}\n".encode())
    return found


def _identity(layout: Layout) -> dict[str, object]:
    try:
        document = json.loads(layout.owner.read_bytes())
    except ValueError as error:
        raise Corrupt(f"{layout.owner} is damaged: {error}") from error
    if not isinstance(document, dict):
        raise Corrupt(f"{layout.owner} is damaged")
    return document


def _check_format(layout: Layout) -> None:
    found = _identity(layout).get("format")
    if not isinstance(found, int):
        raise Corrupt(f"{layout.owner} names no format")
    if found > FORMAT:
        raise StoreTooNew(
            f"the store {layout.root} has format {found}; this envmgr knows {FORMAT}",
            hint="upgrade envmgr on this host",
        )


def _check_owner(layout: Layout) -> None:
    uid, _ = owner(layout)
    if uid != os.geteuid():
        raise PermissionRefused(
            f"the store {layout.root} belongs to uid {uid}, this process runs as uid {os.geteuid()}",
            hint="everybody may use what is ready; to change a store be its owner, or use your own (ENVMGR_ROOT)",
        )
    if not os.access(layout.envs, os.W_OK):
        raise PermissionRefused(f"the store {layout.root} is read-only")


def is_on_shared_filesystem(layout: Layout) -> bool:
    """Tell whether other hosts may mount the file system of a store, by its type; never for one that is not known."""
    status = layout.locks.stat()
    device = f"{os.major(status.st_dev)}:{os.minor(status.st_dev)}"
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:  # no Linux
        return False
    return any(_is_shared_type(_type(line)) for line in lines if line.split()[2] == device)


def _type(line: str) -> str:
    """Return the type that a line of mountinfo names; see proc(5)."""
    return line.partition(" - ")[2].split()[0]


def _is_shared_type(word: str) -> bool:
    return word in _SHARED_TYPES or (word.startswith(_FUSE) and word not in _LOCAL_FUSE)


def check_filesystem(layout: Layout) -> None:
    """Raise `UnsuitableFilesystem` unless flock excludes and symbolic links work where the store lies."""
    probe = layout.locks / f"{fsio.TEMPORARY}probe-{uuid.uuid4().hex[:12]}"
    link = probe.with_name(probe.name + "-link")
    try:
        first = os.open(probe, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        second = os.open(probe, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                fcntl.flock(second, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                raise UnsuitableFilesystem(
                    f"locks do not exclude each other on the file system of {layout.root}",
                    hint="put the store on a local file system",
                )
        except OSError as error:
            raise UnsuitableFilesystem(
                f"flock does not work on the file system of {layout.root}: {error.strerror}",
                hint="put the store on a local file system",
            ) from error
        finally:
            os.close(first)
            os.close(second)
        try:
            os.symlink("nowhere", link)
        except OSError as error:
            raise UnsuitableFilesystem(
                f"symbolic links cannot be made on the file system of {layout.root}: {error.strerror}",
                hint="put the store on a local file system",
            ) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            link.unlink()
        with contextlib.suppress(FileNotFoundError):
            probe.unlink()
