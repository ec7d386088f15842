"""The package cache: verified archives and what was unpacked from them, shared by all builds of one store.

::

    <package_cache>/
      .use                    flock: builds hold it shared, collection takes it exclusively, without waiting
      archives/<key>          an archive whose bytes have been checked; <key> is its sha256; wheels, too, where hosts of
                              a cluster give archives to each other, with the sources of those that were built and what
                              came of it, and those of imported bundles
      unpacked/<key>/         what was unpacked from it; its files are read-only, and prefixes are hard links to them
      unpacked/<key>.ok       the entry's seal (below); of this key the first 48 digits (`envmgr.store.cache`)
      locks/<key>             flock: one process fetches or unpacks this archive
      named/                  links to the entries by the names that rattler wants (`envmgr.backends.rattler.link`)
      */.tmp-…                unfinished; deleted by whoever has `.use` alone: collection, or a build as it begins

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

What can be told alone is told in `envmgr.backends.transfers` and `envmgr.backends.unpacked`; the rest is one protocol,
lock to seal, and stays in one module although that makes it a little long.

Durability: nothing is synced here, one by one. The seals make up for it until the build's own `syncfs`, after which
`Archives.mark_synced` says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from envmgr import fsio
from envmgr.backends import archive_errors
from envmgr.backends.siblings import Siblings
from envmgr.backends.transfers import Progress, Sink, Transport
from envmgr.backends.unpacked import SYNCED, Entries, Seal, delete
from envmgr.errors import ChannelError, Corrupt, EnvmgrError, NetworkError, PolicyRefused
from envmgr.events import Event, Reporter
from envmgr.fsio import Step
from envmgr.lockfile import strip_credentials
from envmgr.model import LockedPackage
from envmgr.store import locks

_BLOCK_BYTES = 1 << 20
_LOCK_LOOK_S = 0.05


class Archives:
    """The cache at `root`, as one build uses it (inside `envmgr.backends.cache_use`).

    `provide` is the whole of it; `downloaded_bytes` counts what came from channels, `sibling_bytes` from `siblings`.
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
        siblings: Siblings | None = None,
        report: Reporter,
    ) -> None:
        self._archives = root / "archives"
        self._entries = Entries(root / "unpacked")
        self._locks = root / "locks"
        self._transport = transport
        self._is_offline = is_offline
        self._allow_md5 = allow_md5
        self._validate = validate
        self._parallel = max(1, parallel)
        self._stall_s = stall_s
        self._siblings = siblings
        self._report = report
        self._unsynced: dict[str, Seal] = {}
        self.downloaded_bytes = 0
        self.sibling_bytes = 0
        self._unpackings: set[asyncio.Future[None]] = set()

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
        return {package.name: self._entries.path(keys[package.name]) for package in packages}

    async def hold(self, packages: Sequence[LockedPackage], *, are_built: bool = False) -> dict[str, Path]:
        """Return package name -> archive, with its bytes as they came, for wheels; what cannot be had is left out.

        Where hosts give archives to each other, what is not here is fetched, so that they and others have it; else
        only what is here counts. What was here is not hashed again: uv does that when it reads one for the first time.
        With `are_built`, they were built by a host, and no channel has them.
        """
        missing = [package for package in packages if not (self._archives / self._key(package)).exists()]
        if missing and self._siblings is not None:
            progress = Progress(self._report, missing, is_unpacking=False)
            downloads = asyncio.Semaphore(self._parallel)
            ordered = sorted(missing, key=lambda it: not self._is_first(it))
            try:
                await _all(
                    [asyncio.ensure_future(self._hold(it, downloads, progress, is_built=are_built)) for it in ordered]
                )
            finally:
                self._count(progress)
                progress.end()
        paths = {package.name: self._archives / self._key(package) for package in packages}
        return {name: path for name, path in paths.items() if path.exists()}

    def keep(self, file: Path) -> Path:
        """Put a wheel that was built here into the cache; return its path there, whose name is its sha256."""
        temporary = self._archives / f"{fsio.TEMPORARY}built-{uuid.uuid4().hex[:12]}"
        sink = Sink(temporary, lambda _: None)
        try:
            sink.restart()
            with file.open("rb") as source:
                while block := source.read(_BLOCK_BYTES):
                    sink.write(block)
            sink.stop()
            sink.close()
            temporary.chmod(0o644)
            return temporary.replace(self._archives / sink.sha256)
        except OSError as error:
            raise archive_errors.of_disk(error, f"cannot store the wheel {file.name}") from error
        finally:
            sink.close()
            temporary.unlink(missing_ok=True)

    async def md5_of(self, package: LockedPackage) -> str:
        """Return the md5 of a package that `provide` has provided."""
        return (await self._hash(self._archives / self._key(package)))[1]

    def mark_synced(self) -> None:
        """Say of every entry that `provide` returned that it is on disk; to be called after `syncfs`."""
        for key, seal in self._unsynced.items():
            with self._try_lock(key) as is_held:
                # Somebody may have exchanged the entry since; then the seal is another one, and not ours to change.
                if is_held and self._entries.read_seal(key) == seal:
                    self._entries.write_seal(key, replace(seal, state=SYNCED))
        self._unsynced.clear()

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
        seal = self._entries.look(key, validate=self._validate)
        if seal is None:
            return False
        if seal.state != SYNCED:
            self._unsynced[key] = seal
        return True

    def _refuse_offline(self, cold: Sequence[LockedPackage], keys: Mapping[str, str]) -> None:
        if not self._is_offline:
            return
        missing = [
            package.name
            for package in cold
            if not package.url.startswith("file://") and not (self._archives / keys[package.name]).exists()
        ]
        if missing:
            raise archive_errors.offline(missing)

    # --------------------------------------------------------------------------------------------------- what is made

    async def _make_all(self, cold: Sequence[LockedPackage], keys: Mapping[str, str], sizes: Mapping[str, int]) -> None:
        progress = Progress(self._report, cold, sizes)
        downloads = asyncio.Semaphore(self._parallel)
        # Other hosts wait for what is first here, so it is fetched before what this one falls back to the channel for.
        ordered = cold if self._siblings is None else sorted(cold, key=lambda it: not self._is_first(it))
        tasks = [
            asyncio.ensure_future(self._make(package, keys[package.name], downloads, progress)) for package in ordered
        ]
        try:
            await _all(tasks)
        finally:
            # Unpacking goes on in rattler's threads whatever is cancelled here: what it leaves can be deleted only once
            # it has ended, which takes no network.
            if self._unpackings:
                done, _ = await asyncio.wait(self._unpackings)
                for unpacking in done:
                    unpacking.exception()  # one of them is being raised already
            self._count(progress)
        progress.end()

    def _count(self, progress: Progress) -> None:
        given_bytes = 0 if self._siblings is None else self._siblings.given_bytes - self.sibling_bytes
        self.sibling_bytes += given_bytes
        self.downloaded_bytes += progress.fetched_bytes - given_bytes

    async def _hold(
        self, package: LockedPackage, downloads: asyncio.Semaphore, progress: Progress, *, is_built: bool
    ) -> None:
        archive = self._archives / self._key(package)
        async with self._lock(archive.name, package.name):
            if not archive.exists():  # another build may have fetched it while we waited
                try:
                    await self._fetch(package, archive, downloads, progress, is_built=is_built)
                except (ChannelError, NetworkError, Corrupt) as error:
                    self._report(Event("log", "fetch", f"{package.name} is left to uv: {error.message}"))
                    return
        progress.fetched(package)

    async def _make(self, package: LockedPackage, key: str, downloads: asyncio.Semaphore, progress: Progress) -> None:
        async with self._lock(key, package.name):
            if self._is_warm(key):  # another build made it while we waited
                progress.fetched(package)
                progress.unpacked()
                return
            archive = self._archives / key
            if not await self._is_verified(archive, package):
                self._refuse_offline([package], {package.name: key})  # it was there, but damaged
                await self._fetch(package, archive, downloads, progress)
            progress.fetched(package)
            unpacking = asyncio.ensure_future(self._unpack(package, key, archive))
            self._unpackings.add(unpacking)
            await asyncio.shield(unpacking)
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

    def _is_first(self, package: LockedPackage) -> bool:
        return self._siblings is None or self._siblings.is_first(package.sha256)

    async def _fetch(
        self,
        package: LockedPackage,
        archive: Path,
        downloads: asyncio.Semaphore,
        progress: Progress,
        *,
        is_built: bool = False,
    ) -> None:
        temporary = self._archives / f"{fsio.TEMPORARY}{archive.name}-{uuid.uuid4().hex[:12]}"
        sink = Sink(temporary, progress.add_bytes)
        try:
            if not await self._take(package, sink, is_built=is_built):
                if is_built:
                    raise NetworkError("no host gives the wheel that was built")
                async with downloads:
                    await self._download(package, sink)
            sink.close()
            temporary.chmod(0o644)
            _reach(Step.ARCHIVE, "temporary")
            temporary.replace(archive)
            _reach(Step.ARCHIVE, "changed")
        except OSError as error:
            raise archive_errors.of_disk(error, f"cannot store the archive of {package.name}") from error
        finally:
            sink.close()
            temporary.unlink(missing_ok=True)

    async def _take(self, package: LockedPackage, sink: Sink, *, is_built: bool) -> bool:
        """Have an archive from another host of the cluster, if one has it or fetches it."""
        if self._siblings is None or not package.sha256 or package.url.startswith("file://"):
            return False
        return await self._siblings.fetch(package.sha256.lower(), package.name, sink, is_only_here=is_built)

    async def _download(self, package: LockedPackage, sink: Sink) -> None:
        await self._transport.fetch(package.url, sink)
        if not _matches(package, sink.sha256, sink.md5):
            # Once more, from the next mirror if there is one: what a proxy or a broken line has spoilt comes right the
            # second time, what a mirror has spoilt does not.
            await self._transport.fetch(package.url, sink, is_again=True)
        if not _matches(package, sink.sha256, sink.md5):
            raise archive_errors.mismatch(package, sink)

    async def _unpack(self, package: LockedPackage, key: str, archive: Path) -> None:
        fresh = self._entries.temporary(key)
        named = fresh.with_name(fresh.name + _suffix(archive, package))
        try:
            os.symlink(archive, named)
            try:
                await self._transport.unpack(named, fresh)
            except EnvmgrError:
                raise
            except Exception as error:
                raise archive_errors.unpacking_failed(error, package) from error
            seal = await asyncio.to_thread(self._entries.settle, fresh)
            _reach(Step.UNPACKED, "temporary")
            if self._entries.put(key, fresh, validate=self._validate):
                self._report(Event("warning", "unpack", f"the cached {package.name} was damaged; it was made anew"))
            _reach(Step.UNPACKED, "changed")
            self._entries.write_seal(key, seal)
            _reach(Step.UNPACKED, "after")
            self._unsynced[key] = seal
        except OSError as error:
            raise archive_errors.of_disk(error, f"cannot unpack {package.name}") from error
        finally:
            await asyncio.to_thread(delete, named)
            await asyncio.to_thread(delete, fresh)

    # -------------------------------------------------------------------------------------------------------- locks

    @contextlib.asynccontextmanager
    async def _lock(self, key: str, name: str) -> AsyncIterator[None]:
        """Be the one that makes an entry; without the lock when its holder shows no progress for `stall_s`.

        The lock spares bytes, it does not guard anything: two that make the same entry harm nobody.
        """
        fd = os.open(self._locks / key, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            seen, since, is_told = -1, time.monotonic(), False
            while not locks.try_exclusive(fd):
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
            yield locks.try_exclusive(fd)
        finally:
            os.close(fd)

    def _unfinished_bytes(self, key: str) -> int:
        total = 0
        for path in self._archives.glob(f"{fsio.TEMPORARY}{key}-*"):
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
        return total


# ------------------------------------------------------------------------------------------------------ small things


def _reach(step: Step, point: str) -> None:
    """Tell the observer of `envmgr.fsio`, if a test has set one; these steps are not durable one by one."""
    if fsio.observer is not None:
        fsio.observer(step, point)


async def _all(tasks: Sequence[asyncio.Future[None]]) -> None:
    """Await all of them; when one fails, the others are cancelled and have ended."""
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _matches(package: LockedPackage, sha256: str, md5: str) -> bool:
    if package.sha256:
        return sha256 == package.sha256.lower()
    return package.md5 is not None and md5 == package.md5.lower()


def _suffix(archive: Path, package: LockedPackage) -> str:
    with archive.open("rb") as file:
        magic = file.read(3)
    if magic.startswith(b"PK"):
        return ".conda"
    if magic == b"BZh":
        return ".tar.bz2"
    raise ChannelError(f"{strip_credentials(package.url)} is neither a .conda nor a .tar.bz2 archive")
