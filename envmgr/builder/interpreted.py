"""The stages of a build that need the prefix's interpreter: the pip section, byte-code, and whether it starts at all.

A module of its own because what it imports (packaging above all) takes as long as linking a small environment: `stages`
imports it in a thread while packages are linked, and not at all for an environment without an interpreter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TypedDict

from envmgr import lockfile
from envmgr.backends import bytecode, pip
from envmgr.backends.pip import platforms
from envmgr.backends.pip.cache import Cache
from envmgr.backends.pip.uv import Runner
from envmgr.builder.recording import Recorder
from envmgr.errors import BuildFailed
from envmgr.events import Event, Reporter, counted
from envmgr.model import LockedPackage, Lockfile
from envmgr.wire.pipe import BuildRequest, Network, PipSettings


class _Around(TypedDict):
    """What solving and installing a pip section have in common."""

    prefix: Path
    settings: PipSettings
    network: Network
    uv_cache: Path
    environ: dict[str, str]
    run: Runner
    report: Reporter


class Interpreted:
    """One build's stages, in the order in which they are called."""

    def __init__(self, request: BuildRequest, run: Runner, report: Recorder) -> None:
        self._request = request
        self._prefix = Path(request.prefix)
        self._python = self._prefix / "bin" / "python"
        self._run = run
        self._report = report
        self._compiled = bytecode.Compiled(0, 0)
        self._uv_cache = Cache(Path(request.uv_cache), report)

    def lock_pip(self) -> tuple[Sequence[LockedPackage], Sequence[str]]:
        """Solve the pip section; return its packages, and the names of those that are not reproducible."""
        request = self._request
        if not request.pip:
            return (), ()
        with self._report.phase("pip-lock", counted(len(request.pip), "requirement")):
            locked = pip.lock(
                request.pip,
                exclude_newer=request.exclude_newer,
                subdir=request.subdir,
                newest_glibc=platforms.glibc(request.solve_virtual_packages),
                **self._around(),
            )
        if locked.replaced:
            self._report.warn("pip-lock", f"the pip section replaces conda packages: {', '.join(locked.replaced)}")
        return locked.packages, locked.not_reproducible

    def wheels(self, packages: Sequence[LockedPackage]) -> tuple[LockedPackage, ...]:
        """Return the packages that `install_pip` takes as files."""
        return pip.wheels(packages)

    def sources(self, packages: Sequence[LockedPackage]) -> tuple[LockedPackage, ...]:
        """Return the packages that `build_wheels` can build."""
        return pip.sources(packages)

    def build_wheels(self, packages: Sequence[LockedPackage], archives: Mapping[str, Path]) -> tuple[pip.Wheel, ...]:
        """Build the wheels of `sources`, as far as `archives` has them, into the build's own directory."""
        if not archives:
            return ()
        directory = Path(self._request.build_dir) / "tmp" / "wheels"
        with self._report.phase("pip-lock", counted(len(archives), "wheel")):
            return pip.build(packages, archives, directory, **self._around())

    def install_pip(
        self,
        lock: Lockfile,
        archives: Mapping[str, Path] = MappingProxyType({}),
        built_wheels: Sequence[LockedPackage] = (),
    ) -> None:
        """Install the pip packages of the lockfile; `archives` are those of its wheels that are here already.

        Those of `built_wheels` that are among them are installed instead of the sources. What a given lockfile has
        installed, conda's packages too, must meet the pip section: `LockfileMismatch`.
        """
        request = self._request
        if any(package.manager == "pip" for package in lock.packages):
            with self._report.phase("pip"):
                pip.install(
                    lock.packages,
                    archives=archives,
                    built_wheels=built_wheels,
                    is_fresh=request.validate_packages,
                    **self._around(),
                )
            locked = {wheel.name for wheel in lock.built_wheels}
            for name in sorted(name for name in locked if name not in archives or not archives[name].exists()):
                self._report.warn(
                    "pip",
                    f"{name} was built here from its sources, and may differ from that of other hosts: the wheel that"
                    " the lockfile names could not be had",
                )
        if request.lockfile is not None and request.pip:
            unmet = pip.unmet(request.pip, self._prefix)
            if unmet:
                raise lockfile.mismatch(unmet)

    def compile(self) -> None:
        """Make the byte-code. A repair takes none from the cache: it believes only what it has made or compared."""
        if not self._python.exists():
            return
        cache = None if self._request.validate_packages else Path(self._request.package_cache)
        with self._report.phase("compile"):
            self._compiled = bytecode.compile_prefix(self._prefix, cache=cache, run=self._run, report=self._report)

    def check(self) -> None:
        """Make sure that the interpreter starts, and warn of what does not fit together."""
        if not self._python.exists():
            return
        finished = self._run(
            [self._python, "-I", "-S", "-B", "-c", "print('ready')"],
            environ={"LANG": "C.UTF-8"},
            on_line=lambda line: self._report(Event("log", "check", line)),
        )
        if finished.status != 0 or "ready" not in finished.tail:
            raise BuildFailed(
                f"the environment's interpreter does not start (status {finished.status}): {' / '.join(finished.tail)}",
                hint="do its packages fit this machine?",
            )
        for warning in pip.check(
            self._prefix, uv_cache=Path(self._request.uv_cache), run=self._run, report=self._report
        ):
            self._report.warn("check", warning)
        self._uv_cache.leave()

    def share(self) -> None:
        """Keep the byte-code in the package cache, and what uv has fetched; only once all is on disk."""
        self._uv_cache.mark_synced()
        bytecode.share(self._compiled, Path(self._request.package_cache), replace=self._request.validate_packages)

    def _around(self) -> _Around:
        request = self._request
        return {
            "prefix": self._prefix,
            "settings": request.pip_settings,
            "network": request.network,
            "uv_cache": self._uv_cache.open(),
            "environ": dict(request.variables),
            "run": self._run,
            "report": self._report,
        }
