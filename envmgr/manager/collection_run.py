"""One run of collection: what it may free, what it was told, and what it has freed or would have.

A dry run goes the same ways and takes the same locks; only the last step, the deletion itself, is left out, and what
would be gone is taken for gone from then on. So it says what a real run at that moment would do, sizes included.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from envmgr import fsio
from envmgr.events import Event, Reporter
from envmgr.fsio import Step
from envmgr.model import Json
from envmgr.names import EnvName
from envmgr.store import publication
from envmgr.store.sizes import Links

if TYPE_CHECKING:
    from envmgr.manager.context import Context
    from envmgr.names import BuildId
    from envmgr.settings import Settings
    from envmgr.store.sizes import Tree


@dataclass(frozen=True, slots=True)
class Collected:
    """One thing that was (or would be) freed, and why; `name` where it is an environment.

    `size_bytes` is what its deletion gives back on disk, after all that is named before it. Files that others share
    count for the last of them: those of an environment and the package cache count with the package.
    """

    path: Path
    name: EnvName | None
    reason: str
    size_bytes: int

    def to_json(self) -> Json:
        return {"path": str(self.path), "name": self.name, "reason": self.reason, "size_bytes": self.size_bytes}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a caller wants instead of the settings ``gc_max_age_s``, ``gc_max_total_bytes``, ``gc_min_age_s``."""

    max_age_s: float | None = None
    max_total_bytes: int | None = None
    min_age_s: float | None = None

    def over(self, settings: Settings) -> InForce:
        """Return what is in force: these, and the settings where these say nothing."""
        return InForce(
            max_age_s=settings.gc_max_age_s if self.max_age_s is None else self.max_age_s,
            max_total_bytes=settings.gc_max_total_bytes if self.max_total_bytes is None else self.max_total_bytes,
            min_age_s=settings.gc_min_age_s if self.min_age_s is None else self.min_age_s,
        )


@dataclass(frozen=True, slots=True)
class InForce:
    """The limits of one run; 0 is no limit."""

    max_age_s: float
    max_total_bytes: int
    min_age_s: float


@dataclass
class Run:
    """See the module. `check` raises when the caller wants no more of it; asked between two things."""

    context: Context
    is_dry: bool
    limits: InForce
    protected: Collection[EnvName]
    report: Reporter
    check: Callable[[], None]
    found: list[Collected] = field(default_factory=list)
    gone: set[EnvName] = field(default_factory=set)
    links: Links = field(default_factory=Links)
    disk_bytes: int = 0
    inodes: int = 0

    def published(self) -> dict[EnvName, BuildId]:
        """Return what is published and not taken for gone."""
        return {
            name: build
            for name, build in publication.published(self.context.layout).items()
            if not self.is_dry or name not in self.gone
        }

    def measure(self, *paths: Path) -> Tree:
        return self.links.measure(paths)

    def note(self, path: Path, reason: str, tree: Tree, *, name: EnvName | None = None) -> None:
        """Count something that has gone, or would have."""
        if self.is_dry:
            self.links.take(tree)
        self.disk_bytes += tree.disk_bytes
        self.inodes += tree.inodes
        thing = Collected(path, name, reason, tree.disk_bytes)
        self.found.append(thing)
        self.report(Event("log", "sweep", f"{name or path}: {reason}"))

    def free(self, paths: Iterable[Path], reason: str, *, shown: Path | None = None) -> None:
        """Delete garbage that nobody can be using, and count it as one thing at the first path or `shown`."""
        self.check()
        all_paths = [path for path in paths if path.is_symlink() or path.exists()]
        if not all_paths:
            return  # another one deletes, too
        tree = self.measure(*all_paths)
        if not self.is_dry:
            for path in all_paths:
                fsio.delete_tree(Step.DELETE, path)
        self.note(shown or all_paths[0], reason, tree)
