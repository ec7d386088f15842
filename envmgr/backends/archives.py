"""The package cache: verified archives and what was unpacked from them, shared by all builds of one store.

::

    <package_cache>/
      .use                    flock: builds hold it shared, collection takes it exclusively, without waiting
      archives/<key>          an archive whose bytes have been checked; <key> is its sha256
      unpacked/<key>/         what was unpacked from it; its files are read-only, and prefixes are hard links to them
      unpacked/<key>.ok       the entry's seal (below)
      locks/<key>             flock: one process fetches or unpacks this archive
      */.tmp-…                unfinished; of nobody once collection has `.use`

A package that the channel describes by md5 only has the key ``md5-<md5>``: it never stands for a sha256.

What holds:

* An archive gets its name after its last byte was hashed by us, wherever it came from. What does not match is deleted.
* An unpacked entry appears by rename, whole. Who comes second throws his own away: merging never replaces. Bytes that
  were on disk before are hashed again before they are unpacked.
* The seal is one line: state, number of files, sum of their sizes, newest modification time. The state is the id of
  the boot under which the entry was unpacked, or ``synced`` once everything has been brought to disk. An entry without
  a seal, or unpacked under an earlier boot and never synced, may have holes: it is unpacked anew.
* Before an entry is used, its files are counted, and sizes and modification times compared with the seal (one walk, no
  file is opened). A damaged entry is exchanged for a fresh one in one step; prefixes that share the damaged files keep
  them (``verify`` names those). What this does *not* see: a change that keeps size and time. `validate` does: it hashes
  every file against ``info/paths.json``.

Durability: nothing is synced here, one by one. The seals make up for it until the build's own `syncfs`, after which
`Archives.mark_synced` says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from envmgr import fsio
from envmgr.errors import BuildFailed, ChannelError, Corrupt, EnvmgrError, NoSpace, Offline, PolicyRefused
from envmgr.events import Event, Reporter
from envmgr.fsio import Step
from envmgr.lockfile import strip_credentials
from envmgr.model import LockedPackage

_SYNCED = "synced"
_BLOCK_BYTES = 1 << 20
_REPORT_EVERY_S = 0.1
_LOCK_LOOK_S = 0.05
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_SHOWN = 5
_libc = ctypes.CDLL(None, use_errno=True)


class Transport(Protocol):
    """Where bytes come from, and who can unpack them; rattler's is `envmgr.backends.rattler.network.Http`."""

    async def fetch(self, url: str, sink: Sink) -> None:
        """Write the bytes at `url` into `sink`, from `Sink.restart` on at each try."""

    async def unpack(self, archive: Path, directory: Path) -> None:
        """Unpack `archive`, whose name ends in ``.conda`` or ``.tar.bz2``, into the new `directory`."""


class Sink:
    """Takes the bytes of one archive, on any thread: writes and hashes them, and says when the last ones came."""

    def __init__(self, path: Path, on_bytes: Callable[[int], None]) -> None:
        self._file = path.open("w+b", buffering=0)
        self._on_bytes = on_bytes
        self._lock = threading.Lock()
        self._is_open = False
        self.failure: Exception | None = None
        self.size_bytes = 0
        self.last_at = 0.0
        self._sha256 = hashlib.sha256()
        self._md5 = hashlib.md5(usedforsecurity=False)

    def restart(self) -> None:
        """Forget what has come: a new try begins."""
        with self._lock:
            self._on_bytes(-self.size_bytes)
            self._file.seek(0)
            self._file.truncate()
            self._sha256 = hashlib.sha256()
            self._md5 = hashlib.md5(usedforsecurity=False)
            self.size_bytes = 0
            self.failure = None
            self.last_at = time.monotonic()
            self._is_open = True

    def write(self, block: bytes) -> int:
        """Take the next bytes."""
        with self._lock:
            if not self._is_open:
                raise ValueError("this try is over")
            try:
                view = memoryview(block)
                while view:
                    view = view[self._file.write(view) :]
            except OSError as error:
                self.failure = error
                raise
            self._sha256.update(block)
            self._md5.update(block)
            self.size_bytes += len(block)
            self.last_at = time.monotonic()
        self._on_bytes(len(block))
        return len(block)

    def stop(self) -> None:
        """Take nothing more in this try."""
        with self._lock:
            self._is_open = False

    def close(self) -> None:
        self.stop()
        self._file.close()

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def md5(self) -> str:
        return self._md5.hexdigest()


@dataclass(frozen=True, slots=True)
class _Seal:
    state: str
    files: int
    size_bytes: int
    newest_ns: int

    def dump(self) -> str:
        return f"{self.state} {self.files} {self.size_bytes} {self.newest_ns}\n"


@contextlib.contextmanager
def in_use(root: Path) -> Iterator[None]:
    """Keep collection out of the cache at `root` for the length of the block; makes the cache if it is not there."""
    for directory in (root, root / "archives", root / "unpacked", root / "locks"):
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    fd = os.open(root / ".use", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)  # collection holds it for as long as a few deletions take
        yield
    finally:
        os.close(fd)


class Archives:
    """The cache at `root`, as one build uses it (inside `in_use`).

    `provide` is the whole of it; `downloaded_bytes` counts what came over the network or from a channel's directory.
    """

    def __init__(
        self,
        root: Path,
        transport: Transport,
        *,
        is_offline: bool = False,
        allow_md5: bool = False,
        validate: bool = False,
        parallel: int = 8,
        stall_s: float = 60.0,
        report: Reporter,
    ) -> None:
        self._archives = root / "archives"
        self._unpacked = root / "unpacked"
        self._locks = root / "locks"
        self._transport = transport
        self._is_offline = is_offline
        self._allow_md5 = allow_md5
        self._validate = validate
        self._parallel = max(1, parallel)
        self._stall_s = stall_s
        self._report = report
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        self._unsynced: dict[str, _Seal] = {}
        self._healed: list[str] = []
        self.downloaded_bytes = 0

    # ------------------------------------------------------------------------------------------------- from outside

    async def provide(
        self, packages: Sequence[LockedPackage], sizes: Mapping[str, int] | None = None
    ) -> dict[str, Path]:
        """Return package name -> directory of the unpacked package, for conda packages; fetch and unpack what lacks.

        `sizes` (URL -> bytes) is for the progress only. Raises `Corrupt`, `Offline`, `ChannelError`, `NetworkError`,
        `NoSpace`, `PolicyRefused` (no sha256); whatever happens, what stands in the cache is verified.
        """
        keys = {package.name: self._key(package) for package in packages}
        cold = [package for package in packages if not self._is_warm(keys[package.name])]
        if cold:
            self._refuse_offline(cold, keys)
            await self._make_all(cold, keys, sizes or {})
        return {package.name: self._unpacked / keys[package.name] for package in packages}

    async def md5_of(self, package: LockedPackage) -> str:
        """Return the md5 of a package that `provide` has provided."""
        return (await self._hash(self._archives / self._key(package)))[1]

    def mark_synced(self) -> None:
        """Say of every entry that `provide` returned that it is on disk; to be called after `syncfs`."""
        for key, seal in self._unsynced.items():
            with self._try_lock(key) as is_held:
                # Somebody may have exchanged the entry since; then the seal is another one, and not ours to change.
                if is_held and self._read_seal(key) == seal:
                    self._write_seal(key, replace(seal, state=_SYNCED))
        self._unsynced.clear()

    @property
    def healed(self) -> tuple[str, ...]:
        """The keys of entries that were found damaged and made anew."""
        return tuple(self._healed)

    # ------------------------------------------------------------------------------------------------- what is there

    def _key(self, package: LockedPackage) -> str:
        if package.sha256:
            return package.sha256.lower()
        if package.md5 and self._allow_md5:
            return f"md5-{package.md5.lower()}"
        raise PolicyRefused(
            f"{package.name} {package.version} from {strip_credentials(package.url)} has no sha256",
            hint="the setting allow_md5 lets an md5 from the channel's index do",
            package=package.name,
        )

    def _is_warm(self, key: str) -> bool:
        """Tell whether the entry can be used as it is; remembers that it has to be synced."""
        seal = self._read_seal(key)
        if seal is None or seal.state not in {_SYNCED, self._boot}:
            return False
        directory = self._unpacked / key
        try:
            files, size_bytes, newest_ns = _measure(directory)
        except OSError:
            return False
        if (files, size_bytes) != (seal.files, seal.size_bytes) or newest_ns > seal.newest_ns:
            return False
        if self._validate and not _is_true_to_paths(directory):
            return False
        if seal.state != _SYNCED:
            self._unsynced[key] = seal
        return True

    def _read_seal(self, key: str) -> _Seal | None:
        try:
            state, files, size_bytes, newest_ns = (self._unpacked / f"{key}.ok").read_text("ascii").split()
            return _Seal(state, int(files), int(size_bytes), int(newest_ns))
        except (OSError, ValueError):
            return None

    def _write_seal(self, key: str, seal: _Seal) -> None:
        temporary = self._temporary(self._unpacked, key)
        temporary.write_text(seal.dump(), "ascii")
        temporary.chmod(0o644)
        temporary.replace(self._unpacked / f"{key}.ok")

    def _refuse_offline(self, cold: Sequence[LockedPackage], keys: Mapping[str, str]) -> None:
        if not self._is_offline:
            return
        missing = [
            package.name
            for package in cold
            if not package.url.startswith("file://") and not (self._archives / keys[package.name]).exists()
        ]
        if missing:
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise Offline(
                f"offline mode is on, and {', '.join(missing[:_SHOWN])}{more} would have to be downloaded",
                hint="the setting offline turns it off; or build once on a host that shares this cache",
                packages=missing,
            )

    # --------------------------------------------------------------------------------------------------- what is made

    async def _make_all(self, cold: Sequence[LockedPackage], keys: Mapping[str, str], sizes: Mapping[str, int]) -> None:
        progress = _Progress(self._report, cold, sizes)
        downloads = asyncio.Semaphore(self._parallel)
        tasks = [
            asyncio.ensure_future(self._make(package, keys[package.name], downloads, progress)) for package in cold
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        self.downloaded_bytes += progress.fetched_bytes
        progress.end()

    async def _make(self, package: LockedPackage, key: str, downloads: asyncio.Semaphore, progress: _Progress) -> None:
        async with self._lock(key, package.name):
            if self._is_warm(key):  # another build made it while we waited
                progress.fetched(package)
                progress.unpacked()
                return
            archive = self._archives / key
            if not await self._is_verified(archive, package):
                async with downloads:
                    await self._fetch(package, archive, progress)
            progress.fetched(package)
            await self._unpack(package, key, archive)
            progress.unpacked()

    async def _is_verified(self, archive: Path, package: LockedPackage) -> bool:
        """Hash an archive that was here before; delete it when it does not match."""
        try:
            if _matches(package, *await self._hash(archive)):
                return True
        except FileNotFoundError:
            return False
        self._report(Event("warning", "fetch", f"the cached archive of {package.name} was damaged; fetching it again"))
        os.unlink(archive)
        return False

    async def _hash(self, path: Path) -> tuple[str, str]:
        def hash_file() -> tuple[str, str]:
            sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
            with path.open("rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    sha256.update(block)
                    md5.update(block)
            return sha256.hexdigest(), md5.hexdigest()

        return await asyncio.to_thread(hash_file)

    async def _fetch(self, package: LockedPackage, archive: Path, progress: _Progress) -> None:
        temporary = self._temporary(self._archives, archive.name)
        sink = Sink(temporary, progress.add_bytes)
        try:
            await self._transport.fetch(package.url, sink)
            if not _matches(package, sink.sha256, sink.md5):
                # Once more: what a proxy or a broken line has spoilt comes right the second time.
                await self._transport.fetch(package.url, sink)
            if not _matches(package, sink.sha256, sink.md5):
                raise _mismatch(package, sink)
            sink.close()
            temporary.chmod(0o644)
            _reach(Step.ARCHIVE, "temporary")
            temporary.replace(archive)
            _reach(Step.ARCHIVE, "changed")
        except OSError as error:
            raise _of_disk(error, f"cannot store the archive of {package.name}") from error
        finally:
            sink.close()
            temporary.unlink(missing_ok=True)

    async def _unpack(self, package: LockedPackage, key: str, archive: Path) -> None:
        entry = self._unpacked / key
        fresh = self._temporary(self._unpacked, key)
        named = fresh.with_name(fresh.name + _suffix(archive, package))
        try:
            named.symlink_to(archive)
            try:
                await self._transport.unpack(named, fresh)
            except EnvmgrError:
                raise
            except Exception as error:
                raise _unpacking_failed(error, package) from error
            files, size_bytes, newest_ns = await asyncio.to_thread(_settle, fresh)
            seal = _Seal(self._boot, files, size_bytes, newest_ns)
            _reach(Step.UNPACKED, "temporary")
            self._put(entry, fresh)
            _reach(Step.UNPACKED, "changed")
            self._write_seal(key, seal)
            _reach(Step.UNPACKED, "after")
            self._unsynced[key] = seal
        except OSError as error:
            raise _of_disk(error, f"cannot unpack {package.name}") from error
        finally:
            named.unlink(missing_ok=True)
            await asyncio.to_thread(_delete, fresh)

    def _put(self, entry: Path, fresh: Path) -> None:
        """Put `fresh` in the place of `entry`, which is damaged if it is there; the damaged one is then `fresh`."""
        if entry.exists():
            self._healed.append(entry.name)
            self._report(Event("warning", "unpack", f"the cached package {entry} was damaged; it was made anew"))
            _exchange(entry, fresh)
        else:
            fresh.rename(entry)

    def _temporary(self, directory: Path, key: str) -> Path:
        return directory / f"{fsio.TEMPORARY}{key}-{uuid.uuid4().hex[:12]}"

    # -------------------------------------------------------------------------------------------------------- locks

    @contextlib.asynccontextmanager
    async def _lock(self, key: str, name: str) -> AsyncIterator[None]:
        """Be the one that makes an entry; without the lock when its holder shows no progress for `stall_s`.

        The lock spares bytes, it does not guard anything: two that make the same entry harm nobody.
        """
        fd = os.open(self._locks / key, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            seen, since, is_told = -1, time.monotonic(), False
            while not _flock(fd):
                if not is_told:
                    is_told = True
                    self._report(Event("log", "fetch", f"waiting for another build that fetches {name}"))
                present = self._unfinished_bytes(key)
                if present != seen:
                    seen, since = present, time.monotonic()
                elif time.monotonic() - since > self._stall_s:
                    break
                await asyncio.sleep(_LOCK_LOOK_S)
            yield
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _try_lock(self, key: str) -> Iterator[bool]:
        fd = os.open(self._locks / key, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            yield _flock(fd)
        finally:
            os.close(fd)

    def _unfinished_bytes(self, key: str) -> int:
        total = 0
        for path in self._archives.glob(f"{fsio.TEMPORARY}{key}-*"):
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
        return total


class _Progress:
    """What is told of the making of all entries: bytes as they come, then packages as they are unpacked."""

    def __init__(self, report: Reporter, cold: Sequence[LockedPackage], sizes: Mapping[str, int]) -> None:
        self._report = report
        self._lock = threading.Lock()
        self._count = len(cold)
        self._sizes = sizes
        self._total = sum(sizes[package.url] for package in cold) if all(one.url in sizes for one in cold) else 0
        self._last_at = 0.0
        self._fetched = 0
        self._unpacked = 0
        self.fetched_bytes = 0
        report(Event("begin", "fetch", f"{self._count} packages"))

    def add_bytes(self, size_bytes: int) -> None:
        with self._lock:
            self.fetched_bytes += size_bytes
            now = time.monotonic()
            if now - self._last_at < _REPORT_EVERY_S:
                return
            self._last_at = now
            event = Event("progress", "fetch", "", self.fetched_bytes, max(self._total, self.fetched_bytes), "bytes")
        self._report(event)

    def fetched(self, package: LockedPackage) -> None:
        self._fetched += 1
        self._report(Event("log", "fetch", f"{package.name} {package.version} is here"))
        if self._fetched == self._count:
            done = self.fetched_bytes
            self._report(Event("progress", "fetch", "", done, done, "bytes"))
            self._report(Event("end", "fetch"))
            self._report(Event("begin", "unpack"))

    def unpacked(self) -> None:
        self._unpacked += 1
        if self._fetched == self._count:
            self._report(Event("progress", "unpack", "", self._unpacked, self._count, "packages"))

    def end(self) -> None:
        self._report(Event("end", "unpack"))


# ------------------------------------------------------------------------------------------------------ small things


def _reach(step: Step, point: str) -> None:
    """Tell the observer of `envmgr.fsio`, if a test has set one; these steps are not durable one by one."""
    if fsio.observer is not None:
        fsio.observer(step, point)


def _matches(package: LockedPackage, sha256: str, md5: str) -> bool:
    if package.sha256:
        return sha256 == package.sha256.lower()
    return package.md5 is not None and md5 == package.md5.lower()


def _mismatch(package: LockedPackage, sink: Sink) -> Corrupt:
    kind = "sha256" if package.sha256 else "md5"
    expected = package.sha256 or package.md5 or ""
    found = sink.sha256 if package.sha256 else sink.md5
    url = strip_credentials(package.url)
    return Corrupt(
        f"{package.name} {package.version} from {url} is not what it must be: its {kind} is {found}, not {expected}"
        f" ({sink.size_bytes} bytes)",
        hint="nothing of it was kept. The channel's file and its index (or the lockfile) disagree, or a proxy or mirror"
        " changed it; where the channel replaced the package, `envmgr relock` takes the new one",
        package=package.name,
        url=url,
        expected=expected,
        found=found,
    )


def _unpacking_failed(error: Exception, package: LockedPackage) -> EnvmgrError:
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return _of_disk(error, f"cannot unpack {package.name}")
    if "os error 28" in str(error) or "No space left" in str(error):
        return NoSpace(f"cannot unpack {package.name}: no space left", hint="`envmgr gc` frees what is not in use")
    return Corrupt(
        f"{package.name} {package.version} from {strip_credentials(package.url)} has the right hash but cannot be"
        f" unpacked: {error}",
        hint="the channel's package itself is broken; choose another build of it",
        package=package.name,
    )


def _of_disk(error: OSError, doing: str) -> EnvmgrError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return NoSpace(f"{doing}: {error.strerror}", hint="`envmgr gc` frees what no environment uses")
    return BuildFailed(f"{doing}: {error}")


def _flock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _suffix(archive: Path, package: LockedPackage) -> str:
    with archive.open("rb") as file:
        magic = file.read(3)
    if magic.startswith(b"PK"):
        return ".conda"
    if magic == b"BZh":
        return ".tar.bz2"
    raise ChannelError(f"{strip_credentials(package.url)} is neither a .conda nor a .tar.bz2 archive")


def _measure(directory: Path) -> tuple[int, int, int]:
    """Return number, size and newest modification time of the files and links below `directory`."""
    files = size_bytes = newest_ns = 0
    todo = [str(directory)]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
                else:
                    status = entry.stat(follow_symlinks=False)
                    files += 1
                    size_bytes += status.st_size
                    newest_ns = max(newest_ns, status.st_mtime_ns)
    return files, size_bytes, newest_ns


def _settle(directory: Path) -> tuple[int, int, int]:
    """Make the files below `directory` read-only and its directories usual; return what `_measure` will find."""
    files = size_bytes = newest_ns = 0
    now_ns = time.time_ns()
    for parent, directories, names in os.walk(directory):
        os.chmod(parent, 0o755)  # noqa: S103 - other users start programs from it
        # os.walk lists links to directories among the directories.
        links = [name for name in directories if os.path.islink(os.path.join(parent, name))]
        for name in (*names, *links):
            path = os.path.join(parent, name)
            status = os.lstat(path)
            modified_ns = status.st_mtime_ns
            if modified_ns > now_ns:  # from an archive of the future, which would hide every later change
                os.utime(path, ns=(now_ns, now_ns), follow_symlinks=False)
                modified_ns = os.lstat(path).st_mtime_ns
            if stat.S_ISREG(status.st_mode):
                os.chmod(path, 0o555 if status.st_mode & 0o111 else 0o444)
            files += 1
            size_bytes += status.st_size
            newest_ns = max(newest_ns, modified_ns)
    return files, size_bytes, newest_ns


def _is_true_to_paths(directory: Path) -> bool:
    """Hash every file of an unpacked package that its own list has a sha256 for."""
    try:
        document = json.loads((directory / "info/paths.json").read_bytes())
        for entry in document["paths"]:
            expected = entry.get("sha256")
            if expected is None or entry.get("path_type") != "hardlink":
                continue
            with (directory / entry["_path"]).open("rb") as file:
                found = hashlib.sha256()
                while block := file.read(_BLOCK_BYTES):
                    found.update(block)
            if found.hexdigest() != expected:
                return False
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # no list, no judgement: unpacking anew is the safe answer
    return True


def _exchange(one: Path, other: Path) -> None:
    """Swap two directories in one step, or in two where the file system cannot."""
    renameat2 = getattr(_libc, "renameat2", None)
    if renameat2 is not None:
        if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
            return
        if (code := ctypes.get_errno()) not in {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}:
            raise OSError(code, os.strerror(code), str(one))
    aside = other.with_name(other.name + "-old")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def _delete(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path, ignore_errors=True)
