"""The site's conda in the place of rattler's solver and, if it is to, of rattler's linking.

Found and asked once for each build, by the builder; its version is in the build's log.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from envmgr.backends.conda import executable
from envmgr.backends.conda import link as linking
from envmgr.backends.conda import solve as solving
from envmgr.backends.conda.command import Caller, Runner
from envmgr.backends.rattler import link as rattler_linking
from envmgr.errors import TimedOut
from envmgr.events import Reporter

if TYPE_CHECKING:
    from envmgr.backends.rattler.link import Linked
    from envmgr.backends.rattler.solve import Solution
    from envmgr.model import LockedPackage, VirtualPackage
    from envmgr.wire.pipe import BuildRequest

_LONGEST_WAIT_S = 3600.0


class SiteConda:
    """One build's `envmgr.builder.stages.Tools`."""

    def __init__(self, request: BuildRequest, run: Runner, report: Reporter) -> None:
        self._request = request
        self._run = run
        self._report = report
        self._caller: Caller | None = None

    async def solve(self, request: BuildRequest, packages: Iterable[VirtualPackage]) -> Solution:
        """See `envmgr.backends.conda.solve`."""
        return solving.solve(self._asked(), request, packages, deadline=_Wait(), report=self._report)

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
    ) -> Linked:
        """See `envmgr.backends.conda.link`; rattler links where conda is only to solve, or can do no more."""
        if self._request.backend == "conda" and not (caller := self._asked()).conda.is_libmamba:
            return linking.link(caller, packages, unpacked, prefix, scratch=scratch, requested=requested, report=report)
        return await rattler_linking.link(
            packages, unpacked, prefix, scratch=scratch, shared=shared, requested=requested, report=report
        )

    def _asked(self) -> Caller:
        if self._caller is None:
            request = self._request
            conda = executable.find(request.conda_executable, dict(request.conda_environ))
            scratch = Path(request.build_dir) / "tmp" / "conda"
            # conda's answers name URLs with their credentials; other users may read the build's directory.
            scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._caller = Caller(conda, request, self._run, scratch, self._report)
        return self._caller


class _Wait:
    """How long a build waits for its turn; its caller's deadline, which ends the builder, is usually earlier."""

    def __init__(self) -> None:
        self._until = time.monotonic() + _LONGEST_WAIT_S

    def check(self) -> None:
        if time.monotonic() > self._until:
            raise TimedOut(f"the site's conda was busy for {_LONGEST_WAIT_S:g} s", hint="does one of them hang?")

    def remaining_s(self) -> float | None:
        return self._until - time.monotonic()
