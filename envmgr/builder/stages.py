"""What a builder does, in DESIGN's order (8 to 14): `_Build.make` reads like it.

Everything is done inside the build's directory, but for verified entries of the package cache and uv's cache. After an
error the directory is in pieces and its caller's to throw away.

What takes as long to import as a small environment to link is imported in a thread while packages are fetched and
linked: conda_lock, unless the lockfile is given, and `envmgr.builder.interpreted`, if there is an interpreter.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from envmgr import fsio, lockfile
from envmgr.backends import activation, cache_use, families, interpreter_hook, processes
from envmgr.backends.archives import Archives
from envmgr.backends.processes import Finished
from envmgr.backends.rattler import link as linking
from envmgr.backends.rattler import network as networking
from envmgr.backends.rattler import prefix as prefixes
from envmgr.backends.rattler import solve as solving
from envmgr.backends.rattler import virtual_packages as virtual
from envmgr.backends.rattler.network import Http
from envmgr.backends.siblings import Siblings
from envmgr.builder.recording import Recorder
from envmgr.errors import PolicyRefused
from envmgr.events import Reporter, counted
from envmgr.fsio import Step
from envmgr.model import BuiltWheel, LockedPackage, Lockfile, VirtualPackage
from envmgr.wire.pipe import BuildRequest, BuildResult

if TYPE_CHECKING:
    from envmgr.builder.interpreted import Interpreted

LOCKFILE_NAME = "conda-lock.yml"
_INTERPRETED = "envmgr.builder.interpreted"
_LOCKFILE_WRITING = "envmgr.lockfile.writing"


def run(request: BuildRequest, *, lease_fd: int, report: Reporter, on_locked: Callable[[str], None]) -> BuildResult:
    """Do what `request` asks for; call it once in a process."""
    networking.arm(request.network, _urls(request))
    recorder = Recorder(report)
    if request.action == "probe":
        cache = Path(request.package_cache)
        asyncio.run(solving.probe(request.channels, request.network, cache, request.subdir))
        return BuildResult("", 0, 0, None, ())
    result = asyncio.run(_Build(request, lease_fd, recorder, on_locked).make())
    return replace(result, phases_s=recorder.phases_s())


class Tools(Protocol):
    """Who solves and who links; see `envmgr.backends.rattler.solve` and `envmgr.backends.rattler.link`."""

    async def solve(self, request: BuildRequest, packages: Iterable[VirtualPackage]) -> solving.Solution: ...

    async def link(
        self,
        packages: Sequence[LockedPackage],
        unpacked: Mapping[str, Path],
        prefix: Path,
        *,
        scratch: Path,
        shared: Path,
        requested: Sequence[str],
        report: Reporter,
    ) -> linking.Linked: ...


class _Rattler:
    solve = staticmethod(solving.solve)
    link = staticmethod(linking.link)


class _Build:
    """One build, from the request to the synced prefix."""

    def __init__(
        self, request: BuildRequest, lease_fd: int, report: Recorder, on_locked: Callable[[str], None]
    ) -> None:
        self._request = request
        self._report = report
        self._on_locked = on_locked
        self._build_dir = Path(request.build_dir)
        self._prefix = Path(request.prefix)
        self._run = functools.partial(_run_tool, request.build_dir, lease_fd)
        self._tools = self._chosen_tools()
        network = request.network
        self._archives = Archives(
            Path(request.package_cache),
            Http(network),
            is_offline=network.is_offline,
            allow_md5=request.allow_md5,
            validate=request.validate_packages,
            parallel=network.parallel_downloads,
            stall_s=network.timeout_s,
            siblings=_siblings(request, report),
            report=report,
        )
        self._skipped: tuple[str, ...] = ()
        self._local_wheels: list[BuiltWheel] = []

    async def make(self) -> BuildResult:
        """Do all stages that the request's action has."""
        request = self._request
        host = virtual.detect(request.subdir, request.virtual_package_overrides)
        solution: solving.Solution | None = None
        if request.lockfile is not None:
            given = self._given(request.lockfile)
            lock: Lockfile | None = given
            conda, required = _conda(given.packages), given.virtual_packages
        else:
            lock = None
            with self._report.phase("solve", counted(len(request.conda), "requirement")):
                solution = await self._tools.solve(request, virtual.for_solve(request, host))
            conda, required = solution.packages, solution.virtual_packages
        if request.action == "build":
            virtual.check(required, host)

        imports = asyncio.ensure_future(asyncio.to_thread(_import, self._imports(conda)))
        with cache_use.in_use(Path(request.package_cache)):
            if lock is None and request.action == "lock" and not request.pip and all(one.md5 for one in conda):
                await imports
                return self._result(self._finish_lock(conda, solution, (), ()), 0)
            unpacked = await self._archives.provide(conda, solution.sizes if solution is not None else None)
            await self._link(conda, unpacked)
            await imports
            interpreted = self._interpreted(lock)
            if lock is None:
                added, not_reproducible = interpreted.lock_pip() if interpreted is not None else ((), ())
                built: tuple[BuiltWheel, ...] = ()
                if interpreted is not None and request.action == "build":
                    # Others, who fetch them here, wait for the lockfile.
                    await self._archives.hold(interpreted.wheels(added))
                    built = await self._build_wheels(interpreted, added)
                conda = tuple([await self._with_md5(package) for package in conda])
                lock = self._finish_lock(conda, solution, added, not_reproducible, built)
            else:
                self._write_lock(lock)
                self._on_locked(lock.text)
            if request.action == "lock":
                return self._result(lock, 0)
            if request.max_environment_bytes:
                self._check_size(prefixes.measure(self._prefix))
            if interpreted is not None:
                await self._install_pip(interpreted, lock)
                if request.max_environment_bytes:
                    self._check_size(prefixes.measure(self._prefix))
            interpreter_hook.install(self._prefix)
            self._capture_activation()
            if interpreted is not None:
                interpreted.compile()
            census = await self._check(lock, interpreted)
            self._sync(interpreted)
        return self._result(lock, census.size_bytes)

    # ---------------------------------------------------------------------------------------------- conda packages

    def _chosen_tools(self) -> Tools:
        if self._request.backend == "rattler":
            return _Rattler()
        from envmgr.backends.conda.site import SiteConda  # noqa: PLC0415 - for the few builds that need it

        return SiteConda(self._request, self._run, self._report)

    async def _link(self, conda: Sequence[LockedPackage], unpacked: Mapping[str, Path]) -> None:
        request = self._request
        self._prefix.parent.mkdir(parents=True, exist_ok=True)
        with self._report.phase("link", counted(len(conda), "package")):
            linked = await self._tools.link(
                conda,
                unpacked,
                self._prefix,
                scratch=self._build_dir / "tmp" / "link",
                shared=Path(request.package_cache) / "named",
                requested=request.conda,
                report=self._report,
            )
            self._skipped = linking.run_scripts(
                linked.scripts,
                self._prefix,
                allowed=request.allow_link_scripts,
                run=self._run,
                environ={"LANG": "C.UTF-8", "HOME": str(self._build_dir / "tmp")},
                report=self._report,
            )
            prefixes.write_metadata(self._prefix, conda, request.conda, request.variables)
        for warning in linked.warnings:
            self._report.warn("link", warning)
        if self._skipped:
            self._report.warn(
                "link", f"link scripts were not run (setting allow_link_scripts): {', '.join(self._skipped)}"
            )

    async def _with_md5(self, package: LockedPackage) -> LockedPackage:
        """conda-lock's format wants an md5 of every conda package; some channels give none."""
        return package if package.md5 else replace(package, md5=await self._archives.md5_of(package))

    # ------------------------------------------------------------------------------------------------ pip packages

    async def _build_wheels(self, interpreted: Interpreted, added: Sequence[LockedPackage]) -> tuple[BuiltWheel, ...]:
        """Build wheels from sources, for this host and, where that may be, for the others; return what is locked.

        Only where hosts give archives to each other: elsewhere uv builds them as it installs them, in fewer steps.
        """
        sources = interpreted.sources(added) if self._request.sharing.is_on else ()
        if not sources:
            return ()
        found: list[BuiltWheel] = []
        for wheel in interpreted.build_wheels(sources, await self._archives.hold(sources)):
            kept = BuiltWheel(wheel.name, wheel.path.name, self._archives.keep(wheel.path).name)
            (found if wheel.is_portable else self._local_wheels).append(kept)
        return tuple(found)

    async def _install_pip(self, interpreted: Interpreted, lock: Lockfile) -> None:
        built = lockfile.stand_ins(lock.packages, [*lock.built_wheels, *self._local_wheels])
        archives = await self._archives.hold(interpreted.wheels(lock.packages))
        archives |= await self._archives.hold(built, are_built=True)
        interpreted.install_pip(lock, archives, built)

    # ---------------------------------------------------------------------------------------------------- lockfile

    def _given(self, text: str) -> Lockfile:
        """Return a lockfile that was given; it must have what the spec asks for, as far as shows before installing."""
        request = self._request
        lock = lockfile.parse(text, request.subdir)
        comparison = lockfile.compare(request.conda, request.pip, lock)
        unmet = [*comparison.unmet, *solving.unmet(comparison.to_match)]
        if unmet:
            raise lockfile.mismatch(unmet)
        return lock

    def _finish_lock(
        self,
        conda: Sequence[LockedPackage],
        solution: solving.Solution | None,
        added: Sequence[LockedPackage],
        not_reproducible: Sequence[str],
        built_wheels: Sequence[BuiltWheel] = (),
    ) -> Lockfile:
        """Make the complete lockfile, write it and hand it over."""
        request = self._request
        text = lockfile.write(
            [*conda, *added],
            subdir=request.subdir,
            channels=[url for channel in request.channels for url in channel.urls],
            virtual_packages=solution.virtual_packages if solution is not None else (),
            not_reproducible=sorted(set(not_reproducible) - {wheel.name for wheel in built_wheels}),
            built_wheels=built_wheels,
            metadata={"envmgr-machine-class": request.machine_class},
        )
        lock = lockfile.parse(text, request.subdir)
        self._write_lock(lock)
        self._on_locked(text)
        return lock

    def _write_lock(self, lock: Lockfile) -> None:
        path = self._build_dir / LOCKFILE_NAME
        path.write_text(lock.text, encoding="utf-8")
        path.chmod(0o644)

    # ------------------------------------------------------------------------------------------------- interpreter

    def _imports(self, conda: Iterable[LockedPackage]) -> Iterable[str]:
        """Return the modules that this build will need once its packages are linked."""
        if self._request.lockfile is None:
            yield _LOCKFILE_WRITING
        if self._request.pip or any(package.name == "python" for package in conda):
            yield _INTERPRETED

    def _interpreted(self, lock: Lockfile | None) -> Interpreted | None:
        """Return the stages that need an interpreter, if this build has any."""
        has_pip = lock is not None and any(package.manager == "pip" for package in lock.packages)
        if not (has_pip or self._request.pip or (self._prefix / "bin" / "python").exists()):
            return None
        from envmgr.builder.interpreted import Interpreted  # noqa: PLC0415 - see the module

        return Interpreted(self._request, self._run, self._report)

    # ------------------------------------------------------------------------------------------------------ the end

    def _capture_activation(self) -> None:
        with self._report.phase("activation"):
            self._report.warnings += activation.capture(
                self._prefix, self._build_dir, self._request.variables, run=self._run, report=self._report
            )

    def _check_size(self, size_bytes: int) -> None:
        limit = self._request.max_environment_bytes
        if limit and size_bytes > limit:
            raise PolicyRefused(
                f"the environment takes {size_bytes / 2**20:.1f} MiB, more than the {limit / 2**20:.1f} MiB of the"
                " setting max_environment_bytes",
                hint="ask for less, or let the setting be raised",
                rule="size",
                setting="max_environment_bytes",
            )

    async def _check(self, lock: Lockfile, interpreted: Interpreted | None) -> prefixes.Census:
        """Take the right to write away, and look whether the prefix is what it must be."""
        with self._report.phase("check"):
            # Begun now; a coroutine would not be before the first `await`, which is behind the other checks.
            read_only = asyncio.get_running_loop().run_in_executor(None, prefixes.make_read_only, self._prefix)
            prefixes.check_records(self._prefix, _conda(lock.packages))
            if interpreted is not None:
                interpreted.check()
            census = await read_only
        self._check_size(census.size_bytes)
        return census

    def _sync(self, interpreted: Interpreted | None) -> None:
        with self._report.phase("sync"):
            fsio.sync_filesystem(Step.SYNC, self._build_dir)
            cache = Path(self._request.package_cache)
            if cache.stat().st_dev != self._build_dir.stat().st_dev:
                fsio.sync_filesystem(Step.SYNC, cache)
            self._archives.mark_synced()
            if interpreted is not None:
                interpreted.share()

    def _result(self, lock: Lockfile, size_bytes: int) -> BuildResult:
        versions = (one.version for one in lock.packages if one.manager == "conda" and one.name == "python")
        return BuildResult(
            lock_digest=lock.digest,
            packages=len(lock.packages),
            size_bytes=size_bytes,
            python_version=next(versions, None),
            phases_s=(),
            skipped_link_scripts=self._skipped,
            warnings=tuple(self._report.warnings),
            downloaded_bytes=self._archives.downloaded_bytes,
            sibling_bytes=self._archives.sibling_bytes,
        )


def _urls(request: BuildRequest) -> list[str]:
    """Return the URLs whose credentials archives are fetched with; a channel's count before an index's on one host."""
    urls = [url for channel in request.channels for url in channel.urls]
    if request.sharing.is_on:
        pip = request.pip_settings
        urls = [*filter(None, [pip.index_url]), *pip.extra_index_urls, *pip.find_links, *urls]
    return urls


def _siblings(request: BuildRequest, report: Recorder) -> Siblings | None:
    if not request.sharing.is_on or request.network.is_offline:
        return None
    return Siblings(
        request.sharing,
        request.name,
        request.machine_class,
        is_solving=request.lockfile is None,
        parallel=request.network.parallel_downloads,
        report=report,
    )


def _run_tool(
    build_dir: str,
    lease_fd: int,
    command: Sequence[str | os.PathLike[str]],
    *,
    environ: Mapping[str, str],
    on_line: Callable[[str], None] = processes.ignore,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
    timeout_s: float | None = None,
) -> Finished:
    """Run a tool that holds the lease, and what else it is passed, and carries the build's mark."""
    return processes.run(
        command,
        environ={**environ, families.MARK: build_dir},
        on_line=on_line,
        cwd=cwd,
        pass_fds=(lease_fd, *pass_fds),
        timeout_s=timeout_s,
    )


def _conda(packages: Sequence[LockedPackage]) -> tuple[LockedPackage, ...]:
    return tuple(package for package in packages if package.manager == "conda")


def _import(modules: Iterable[str]) -> None:
    for module in modules:
        importlib.import_module(module)
