"""Bundles: environments as one file, for sites without a network: specs, lockfiles, and every archive they name.

A bundle is an uncompressed tar (archives are compressed already)::

    envmgr-bundle.json        first: format, envmgr's version, the environments (spec, machine class, lockfile's text)
                              and the size of each archive by its sha256
    archives/<sha256>         each conda package and wheel, once, in the order of their hashes

After `import_` the lockfiles are in force in the store and the archives lie in its package cache, where collection
leaves them until ``remove --forget``; ``envmgr create FILE`` then builds without a network (setting ``offline``).

What holds: an archive gets its name in the store after its last byte was hashed; lockfiles come into force after all
archives are on disk, so that an import that is cut off changes nothing but the cache. A lockfile that is in force and
differs is never replaced. No member of the tar is ever written to a path that the tar names.

Not promised: that a bundle is signed, so believe only one from somebody whom you would let write the store; sources
that pip builds (sdists, version control) do not travel.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tarfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from envmgr import codec, fsio, lockfile
from envmgr.errors import Corrupt, EnvironmentNotFound, InvalidSpec, LockfileMismatch, PolicyRefused, UsageError
from envmgr.events import counted, ignore
from envmgr.fsio import Step
from envmgr.manager.waiting import TimeLimit, locked
from envmgr.model import LockedPackage, Spec
from envmgr.spec import parse, reader_of
from envmgr.store import cache, publication, records
from envmgr.version import __version__

if TYPE_CHECKING:
    from envmgr.manager.context import Context
    from envmgr.names import EnvName

FORMAT = 1
_MANIFEST = "envmgr-bundle.json"
_ARCHIVES = "archives/"
_LARGEST_MANIFEST_BYTES = 256 << 20
_BLOCK_BYTES = 1 << 20
_HEX = frozenset("0123456789abcdef")
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundled:
    """One environment of a bundle."""

    spec: Spec
    machine_class: str
    subdir: str
    lockfile: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a bundle has; `archives`: sha256 → bytes."""

    format: int
    envmgr_version: str
    environments: tuple[Bundled, ...]
    archives: Mapping[str, int]

    @property
    def size_bytes(self) -> int:
        return sum(self.archives.values())


# ------------------------------------------------------------------------------------------------------------- export


def export(context: Context, names: Sequence[EnvName], file: Path) -> Manifest:
    """Write these environments of the store into a new file, which appears whole; `UsageError` if it is there.

    Raises `EnvironmentNotFound` for one that is not published here or has an archive that is not, `PolicyRefused` for
    one with packages that have no archive.
    """
    with cache.shared(context.layout):
        environments = tuple(_bundled(context, name) for name in dict.fromkeys(names))
        wanted = {sha256: package for it in environments for sha256, package in _packages(it).items()}
        archives = _sizes(context, wanted)
        manifest = Manifest(format=FORMAT, envmgr_version=__version__, environments=environments, archives=archives)
        with _appearing(file) as out, tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            data = json.dumps(asdict(manifest)).encode()
            tar.addfile(_member(_MANIFEST, len(data)), io.BytesIO(data))
            for sha256, size in archives.items():
                with _archive(context, sha256).open("rb") as archive:
                    hashing = _Hashing(archive)
                    tar.addfile(_member(_ARCHIVES + sha256, size), hashing)
                if hashing.hexdigest() != sha256:
                    package = wanted[sha256]
                    raise Corrupt(
                        f"the archive of {package.name} {package.version} in the package cache is damaged",
                        hint="envmgr repair of an environment that has it fetches it again",
                    )
    return manifest


def _bundled(context: Context, name: EnvName) -> Bundled:
    build = publication.current(context.layout, name)
    spec = records.read_spec(context.layout, name)
    if build is None or spec is None:
        raise EnvironmentNotFound(f"{name} is not in {context.root}", hint="envmgr create FILE makes it")
    record = records.read_record(context.layout, name, build)
    text = context.layout.build(build).lockfile.read_text(encoding="utf-8")
    return Bundled(spec=spec, machine_class=record.machine_class, subdir=context.settings.subdir, lockfile=text)


def _packages(environment: Bundled) -> dict[str, LockedPackage]:
    packages = lockfile.parse(environment.lockfile, environment.subdir).packages
    without = [
        package.name
        for package in packages
        if package.sha256 is None or (package.manager == "pip" and not package.url.partition("#")[0].endswith(".whl"))
    ]
    if without:
        raise PolicyRefused(
            f"{environment.spec.name} has packages without an archive that could travel: {_some(without)}",
            hint="only conda packages and wheels that have a sha256 do",
            packages=without,
        )
    return {str(package.sha256).lower(): package for package in packages}


def _sizes(context: Context, wanted: Mapping[str, LockedPackage]) -> dict[str, int]:
    sizes = {}
    missing = []
    for sha256, package in sorted(wanted.items()):
        try:
            sizes[sha256] = _archive(context, sha256).stat().st_size
        except FileNotFoundError:
            missing.append(package)
    if missing:
        has_wheels = any(package.manager == "pip" for package in missing)
        raise EnvironmentNotFound(
            f"the package cache lacks the archives of {_some([package.name for package in missing])}",
            hint="wheels are kept by hosts that give archives to others (setting archives_listen)"
            if has_wheels
            else "create the environment in a store of its own (--root), and export from there",
            packages=[package.name for package in missing],
        )
    return sizes


def _some(words: Sequence[str]) -> str:
    more = len(words) - _SHOWN
    return ", ".join(words[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _archive(context: Context, sha256: str) -> Path:
    return context.layout.packages / "archives" / sha256


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    return member


@contextlib.contextmanager
def _appearing(file: Path) -> Iterator[IO[bytes]]:
    """Write a file beside its place, and give it its name when it is whole and on disk."""
    temporary = file.with_name(f"{fsio.TEMPORARY}{file.name}-{uuid.uuid4().hex[:12]}")
    try:
        with temporary.open("xb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        os.link(temporary, file)
        fsio.sync_directory(file.parent)
    except FileExistsError as error:
        raise UsageError(f"{file} is there already", hint="a bundle is written into a new file") from error
    except (FileNotFoundError, PermissionError, NotADirectoryError) as error:
        raise UsageError(f"cannot write {file}: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


class _Hashing(io.RawIOBase):
    """A file that is hashed as it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        block = self._file.read(size)
        self._sha256.update(block)
        return block

    def hexdigest(self) -> str:
        return self._sha256.hexdigest()


# ------------------------------------------------------------------------------------------------------------- import


def import_(context: Context, file: Path, *, timeout_s: float | None = None) -> Manifest:
    """Put a bundle's archives and lockfiles into the store, durably; waits for builds of the same names.

    Raises `Corrupt` for what is no whole bundle or does not match its hashes, `LockfileMismatch` for a name that has
    another lockfile in force.
    """
    try:
        with cache.shared(context.layout), _opened(file) as tar:
            manifest = _read_manifest(tar, _next(tar))
            for it in manifest.environments:
                _check(context, it, manifest.archives)
            missing = set(manifest.archives)
            while (member := _next(tar)) is not None:
                missing.discard(_take(context, tar, member, manifest.archives))
            if missing:
                raise Corrupt(f"{file} is cut off: it lacks {counted(len(missing), 'archive')}")
            limit = TimeLimit(context.clock, timeout_s)
            for it in manifest.environments:
                with locked(context, it.spec.name, limit, ignore):
                    _check_in_force(context, it)  # a build may have put one in force meanwhile
                    records.write_spec(context.layout, it.spec)
                    records.set_bundled(context.layout, it.spec.name)
                    records.write_lockfile(context.layout, it.spec.name, it.machine_class, it.lockfile)
    except (tarfile.TarError, EOFError) as error:
        raise Corrupt(f"{file} is no bundle, or is cut off: {error}", hint="envmgr bundle export writes one") from error
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        if error.filename is None or Path(error.filename) != file:
            raise
        raise UsageError(f"cannot read {file}: {error.strerror}") from error
    return manifest


def _opened(file: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(file, mode="r|")
    except ValueError as error:  # of a damaged header, from which tarfile reads numbers unawares
        raise tarfile.ReadError(str(error)) from error


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    try:
        return tar.next()
    except ValueError as error:
        raise tarfile.ReadError(str(error)) from error


def _read_manifest(tar: tarfile.TarFile, member: tarfile.TarInfo | None) -> Manifest:
    source = None
    if member is not None and member.isreg() and member.name == _MANIFEST and member.size <= _LARGEST_MANIFEST_BYTES:
        source = tar.extractfile(member)
    if source is None:
        raise Corrupt(f"it is no bundle: it does not begin with {_MANIFEST}")
    try:
        document = json.loads(source.read())
        found = document["format"]
        if isinstance(found, int) and found > FORMAT:
            raise UsageError(f"the bundle has format {found}; this envmgr knows {FORMAT}", hint="upgrade envmgr")
        manifest = codec.load(Manifest, document)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Corrupt(f"the bundle's {_MANIFEST} is damaged: {error}") from error
    if not all(_is_sha256(sha256) for sha256 in manifest.archives):
        raise Corrupt(f"the bundle's {_MANIFEST} names an archive by what is no SHA-256")
    return manifest


def _check(context: Context, it: Bundled, archives: Mapping[str, int]) -> None:
    """Raise unless the spec has its name, the lockfile its archives, and nothing else is in force."""
    name = it.spec.name
    # Read anew: other requirements may stand beside an honest canonical text.
    try:
        is_true = parse(it.spec.source_text, read_include=reader_of(dict(it.spec.includes))) == it.spec
    except InvalidSpec:
        is_true = False
    if not is_true:
        raise Corrupt(f"the bundle's spec of {name!r} is not that of this name")
    if it.subdir != context.settings.subdir or not _is_class(it):
        raise Corrupt(f"the bundle's lockfile of {name} is for {it.machine_class!r}, not for this machine")
    if not _packages(it).keys() <= archives.keys():
        raise Corrupt(f"the bundle lacks archives of {name}")
    _check_in_force(context, it)


def _check_in_force(context: Context, it: Bundled) -> None:
    name = it.spec.name
    in_force = records.read_lockfile(context.layout, name, it.machine_class)
    if in_force is not None and _digest(in_force, it) != _digest(it.lockfile, it):
        raise LockfileMismatch(
            f"{name} has another lockfile in force in {context.root}",
            hint=f"envmgr remove --forget {name} drops it, and the environment with it",
        )


def _is_class(it: Bundled) -> bool:
    is_of_subdir = it.machine_class == it.subdir or it.machine_class.startswith(f"{it.subdir}+")
    return is_of_subdir and "/" not in it.machine_class and it.machine_class.isprintable()


def _digest(text: str, it: Bundled) -> str:
    return lockfile.parse(text, it.subdir).digest


def _take(context: Context, tar: tarfile.TarFile, member: tarfile.TarInfo, archives: Mapping[str, int]) -> str:
    """Put one archive into the cache and return its sha256; `Corrupt` for any other member."""
    sha256 = member.name.removeprefix(_ARCHIVES)
    # One with holes could be any size on disk, however small the bundle.
    is_archive = member.isreg() and not member.issparse() and member.name == _ARCHIVES + sha256
    source = tar.extractfile(member) if is_archive else None
    if source is None or archives.get(sha256) != member.size:
        raise Corrupt(f"the bundle has a member that does not belong into it: {member.name!r}")
    target = _archive(context, sha256)
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    temporary = target.with_name(f"{fsio.TEMPORARY}{sha256}-{uuid.uuid4().hex[:12]}")
    try:
        with temporary.open("xb") as out:
            found = hashlib.sha256()
            while block := source.read(_BLOCK_BYTES):
                found.update(block)
                out.write(block)
            out.flush()
            os.fchmod(out.fileno(), 0o644)
            os.fsync(out.fileno())
        if found.hexdigest() != sha256:
            raise Corrupt(f"the bundle's archive {sha256} is damaged: its bytes have another SHA-256")
        fsio.move(Step.ARCHIVE, temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return sha256


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and _HEX.issuperset(text)
