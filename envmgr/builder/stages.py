"""What a builder does, in DESIGN's order (8 to 14): `_Build.make` reads like it.

Everything is done inside the build's directory, but for verified entries of the package cache and uv's cache. After an
error the directory is in pieces and its caller's to throw away.

conda_lock, which takes as long to import as a small environment to link, is imported in a thread while packages are
fetched and linked, and not at all when the lockfile is given.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from envmgr import fsio, lockfile
from envmgr.backends import activation, archives, bytecode, families, interpreter_hook, pip, processes
from envmgr.backends.archives import Archives
from envmgr.backends.processes import Finished
from envmgr.backends.rattler import link as linking
from envmgr.backends.rattler import network as networking
from envmgr.backends.rattler import prefix as prefixes
from envmgr.backends.rattler import solve as solving
from envmgr.backends.rattler import virtual_packages as virtual
from envmgr.backends.rattler.network import Http
from envmgr.errors import BuildFailed, LockfileMismatch
from envmgr.events import Event, Phase, Reporter
from envmgr.fsio import Step
from envmgr.model import LockedPackage, Lockfile
from envmgr.wire.pipe import BuildRequest, BuildResult

LOCKFILE_NAME = "conda-lock.yml"


def run(request: BuildRequest, *, lease_fd: int, report: Reporter, on_locked: Callable[[str], None]) -> BuildResult:
    """Do what `request` asks for; call it once in a process."""
    networking.arm(request.network, [url for channel in request.channels for url in channel.urls])
    recorder = _Recorder(report)
    if request.action == "probe":
        cache = Path(request.package_cache)
        asyncio.run(solving.probe(request.channels, request.network, cache, request.subdir))
        return BuildResult("", 0, 0, None, ())
    result = asyncio.run(_Build(request, lease_fd, recorder, on_locked).make())
    return replace(result, phases_s=recorder.phases_s())


class _Recorder:
    """A reporter that also takes the time of each phase."""

    def __init__(self, report: Reporter) -> None:
        self._report = report
        self._began: dict[Phase, float] = {}
        self._took: dict[Phase, float] = {}

    def __call__(self, event: Event) -> None:
        if event.kind == "begin":
            self._began[event.phase] = time.monotonic()
        elif event.kind == "end" and event.phase in self._began:
            took = time.monotonic() - self._began.pop(event.phase)
            self._took[event.phase] = self._took.get(event.phase, 0.0) + took
        self._report(event)

    @contextlib.contextmanager
    def phase(self, name: Phase, message: str = "") -> Iterator[None]:
        self(Event("begin", name, message))
        try:
            yield
        finally:
            self(Event("end", name))

    def phases_s(self) -> tuple[tuple[str, float], ...]:
        return tuple((name, round(took, 6)) for name, took in self._took.items())


class _Build:
    """One build, from the request to the synced prefix."""

    def __init__(
        self, request: BuildRequest, lease_fd: int, report: _Recorder, on_locked: Callable[[str], None]
    ) -> None:
        self._request = request
        self._report = report
        self._on_locked = on_locked
        self._build_dir = Path(request.build_dir)
        self._prefix = Path(request.prefix)
        self._run = functools.partial(_run_tool, request.build_dir, lease_fd)
        network = request.network
        self._archives = Archives(
            Path(request.package_cache),
            Http(network),
            is_offline=network.is_offline,
            allow_md5=request.allow_md5,
            validate=request.validate_packages,
            parallel=network.parallel_downloads,
            stall_s=network.timeout_s,
            report=report,
        )
        self._warnings: list[str] = []
        self._skipped: tuple[str, ...] = ()
        self._compiled = bytecode.Compiled(0, 0)

    async def make(self) -> BuildResult:
        """Do all stages that the request's action has."""
        request = self._request
        host = virtual.detect(request.subdir, request.virtual_package_overrides)
        writer: asyncio.Future[None] | None = None
        if request.lockfile is not None:
            lock: Lockfile | None = lockfile.parse(request.lockfile, request.subdir)
            solution = None
        else:
            lock = None
            with self._report.phase("solve", f"{len(request.conda)} requirements"):
                solution = await solving.solve(request, host)
            writer = asyncio.ensure_future(asyncio.to_thread(_import_conda_lock))
        conda = _conda(lock.packages) if lock is not None else solution.packages if solution is not None else ()
        if lock is not None:
            self._check_given(lock)
            if request.action == "build":
                virtual.check(lock, host)

        with archives.in_use(Path(request.package_cache)):
            if lock is None and request.action == "lock" and not request.pip and all(one.md5 for one in conda):
                lock = await self._finish_lock(conda, solution, (), (), writer)
                return self._result(lock, 0)
            unpacked = await self._archives.provide(conda, solution.sizes if solution is not None else None)
            await self._link(conda, unpacked)
            if lock is None:
                added, not_reproducible = self._lock_pip()
                conda = tuple([await self._with_md5(package) for package in conda])
                lock = await self._finish_lock(conda, solution, added, not_reproducible, writer)
            else:
                self._write_lock(lock)
                self._on_locked(lock.text)
            if request.action == "lock":
                return self._result(lock, 0)
            self._install_pip(lock)
            self._check_pip()
            interpreter_hook.install(self._prefix)
            self._capture_activation()
            self._compile()
            census = await self._check(lock)
            self._sync()
        return self._result(lock, census.size_bytes)

    # ---------------------------------------------------------------------------------------------- conda packages

    async def _link(self, conda: Sequence[LockedPackage], unpacked: Mapping[str, Path]) -> None:
        request = self._request
        self._prefix.parent.mkdir(parents=True, exist_ok=True)
        with self._report.phase("link", f"{len(conda)} packages"):
            linked = await linking.link(
                conda,
                unpacked,
                self._prefix,
                scratch=self._build_dir / "tmp" / "link",
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
            self._warn("link", warning)
        if self._skipped:
            self._warn("link", f"link scripts were not run (setting allow_link_scripts): {', '.join(self._skipped)}")

    async def _with_md5(self, package: LockedPackage) -> LockedPackage:
        """conda-lock's format wants an md5 of every conda package; some channels give none."""
        return package if package.md5 else replace(package, md5=await self._archives.md5_of(package))

    # ---------------------------------------------------------------------------------------------------- lockfile

    def _check_given(self, lock: Lockfile) -> None:
        """Make sure that a lockfile that was given has what the spec asks for, as far as it shows before installing."""
        request = self._request
        comparison = lockfile.compare(request.conda, request.pip, lock)
        unmet = [*comparison.unmet, *solving.unmet(comparison.to_match)]
        if unmet:
            raise _mismatch(unmet)

    async def _finish_lock(
        self,
        conda: Sequence[LockedPackage],
        solution: solving.Solution | None,
        added: Sequence[LockedPackage],
        not_reproducible: Sequence[str],
        writer: asyncio.Future[None] | None,
    ) -> Lockfile:
        """Make the complete lockfile, write it and hand it over."""
        request = self._request
        if writer is not None:
            await writer
        text = lockfile.write(
            [*conda, *added],
            subdir=request.subdir,
            channels=[url for channel in request.channels for url in channel.urls],
            virtual_packages=solution.virtual_packages if solution is not None else (),
            not_reproducible=not_reproducible,
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

    # --------------------------------------------------------------------------------------------------------- pip

    def _lock_pip(self) -> tuple[Sequence[LockedPackage], Sequence[str]]:
        request = self._request
        if not request.pip:
            return (), ()
        with self._report.phase("pip-lock", f"{len(request.pip)} requirements"):
            locked = pip.lock(
                request.pip,
                prefix=self._prefix,
                settings=request.pip_settings,
                network=request.network,
                uv_cache=self._uv_cache(),
                exclude_newer=request.exclude_newer,
                environ=dict(request.variables),
                run=self._run,
                report=self._report,
            )
        if locked.replaced:
            self._warn("pip-lock", f"the pip section replaces conda packages: {', '.join(locked.replaced)}")
        return locked.packages, locked.not_reproducible

    def _install_pip(self, lock: Lockfile) -> None:
        request = self._request
        if not any(package.manager == "pip" for package in lock.packages):
            return
        with self._report.phase("pip"):
            pip.install(
                lock.packages,
                prefix=self._prefix,
                settings=request.pip_settings,
                network=request.network,
                uv_cache=self._uv_cache(),
                is_fresh=request.validate_packages,
                environ=dict(request.variables),
                run=self._run,
                report=self._report,
            )

    def _check_pip(self) -> None:
        """Make sure that what a given lockfile has installed, conda's packages too, meets the pip section."""
        request = self._request
        if request.lockfile is not None and request.pip:
            unmet = pip.unmet(request.pip, self._prefix)
            if unmet:
                raise _mismatch(unmet)

    def _uv_cache(self) -> Path:
        cache = Path(self._request.uv_cache)
        cache.mkdir(parents=True, exist_ok=True)
        return cache

    # ------------------------------------------------------------------------------------------------------ the end

    def _capture_activation(self) -> None:
        with self._report.phase("activation"):
            self._warnings += activation.capture(
                self._prefix, self._build_dir, self._request.variables, run=self._run, report=self._report
            )

    def _compile(self) -> None:
        if self._python() is None:
            return
        with self._report.phase("compile"):
            self._compiled = bytecode.compile_prefix(
                self._prefix, cache=self._bytecode_cache(), run=self._run, report=self._report
            )

    def _bytecode_cache(self) -> Path | None:
        """The cache to take byte-code from; none for a repair, which believes only what it has made or compared."""
        return None if self._request.validate_packages else Path(self._request.package_cache)

    async def _check(self, lock: Lockfile) -> prefixes.Census:
        """Take the right to write away, and look whether the prefix is what it must be."""
        with self._report.phase("check"):
            read_only = asyncio.ensure_future(asyncio.to_thread(prefixes.make_read_only, self._prefix))
            prefixes.check_records(self._prefix, _conda(lock.packages))
            python = self._python()
            if python is not None:
                self._check_interpreter(python)
                found = pip.check(self._prefix, uv_cache=self._uv_cache(), run=self._run, report=self._report)
                for warning in found:
                    self._warn("check", warning)
            return await read_only

    def _check_interpreter(self, python: Path) -> None:
        finished = self._run(
            [python, "-I", "-S", "-B", "-c", "print('ready')"],
            environ={"LANG": "C.UTF-8"},
            on_line=lambda line: self._report(Event("log", "check", line)),
        )
        if finished.status != 0 or "ready" not in finished.tail:
            raise BuildFailed(
                f"the environment's interpreter does not start (status {finished.status}): {' / '.join(finished.tail)}",
                hint="do its packages fit this machine?",
            )

    def _sync(self) -> None:
        with self._report.phase("sync"):
            fsio.sync_filesystem(Step.SYNC, self._build_dir)
            cache = Path(self._request.package_cache)
            if cache.stat().st_dev != self._build_dir.stat().st_dev:
                fsio.sync_filesystem(Step.SYNC, cache)
            self._archives.mark_synced()
            bytecode.share(self._compiled, cache, replace=self._request.validate_packages)

    def _python(self) -> Path | None:
        python = self._prefix / "bin" / "python"
        return python if python.exists() else None

    def _warn(self, phase: Phase, text: str) -> None:
        self._warnings.append(text)
        self._report(Event("warning", phase, text))

    def _result(self, lock: Lockfile, size_bytes: int) -> BuildResult:
        versions = (one.version for one in lock.packages if one.manager == "conda" and one.name == "python")
        return BuildResult(
            lock_digest=lock.digest,
            packages=len(lock.packages),
            size_bytes=size_bytes,
            python_version=next(versions, None),
            phases_s=(),
            skipped_link_scripts=self._skipped,
            warnings=tuple(self._warnings),
            downloaded_bytes=self._archives.downloaded_bytes,
        )


def _run_tool(
    build_dir: str,
    lease_fd: int,
    command: Sequence[str | os.PathLike[str]],
    *,
    environ: Mapping[str, str],
    on_line: Callable[[str], None] = processes.ignore,
    cwd: Path | None = None,
    timeout_s: float | None = None,
) -> Finished:
    """Run a tool that holds the lease and carries the build's mark."""
    return processes.run(
        command,
        environ={**environ, families.MARK: build_dir},
        on_line=on_line,
        cwd=cwd,
        pass_fds=(lease_fd,),
        timeout_s=timeout_s,
    )


def _mismatch(unmet: Sequence[str]) -> LockfileMismatch:
    return LockfileMismatch(
        f"the given lockfile does not satisfy the spec: {'; '.join(unmet)}",
        hint="make it anew: envmgr lock FILE -o OUT",
        unmet=list(unmet),
    )


def _conda(packages: Sequence[LockedPackage]) -> tuple[LockedPackage, ...]:
    return tuple(package for package in packages if package.manager == "conda")


def _import_conda_lock() -> None:
    import envmgr.lockfile.writing  # noqa: F401, PLC0415 - for its effect: the import that takes so long
