"""Where everything stands below a store's root. Pure: nothing here touches the disk.

::

    <root>/                        the service's, or the user's own
      store-id, owner              uuid; format, uid and mode (personal | service)
      envs/<name>                  -> ../builds/<build id>/envs/<name>      the publication; its presence is readiness
      envs/<alias>                 -> <name>
      builds/<build id>/
        envs/<name>/               the conda prefix, at its final path
        record.json  conda-lock.yml  spec.yml  build.log  activation        written once, before publication
        lease                      0444; see `envmgr.ready`
      names/<name>/                what is known of a name beside its builds: spec, lockfiles, pin, last failure
      by-text/<sha256>             -> <name>; a document that was already seen
      locks/                       0700; <name>.lock, never unlinked
      pkgs/                        verified archives and unpacked packages
      uv-cache/                    the same for the pip section
      packs/                       archives of environments, from the first one on; see `envmgr.store.packs`
      trash/                       what is being deleted
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from envmgr.names import Alias, BuildId, EnvName

FORMAT = 1
"""The layout's version; a store with a higher one is not touched."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one store."""

    root: Path

    @property
    def store_id(self) -> Path:
        return self.root / "store-id"

    @property
    def owner(self) -> Path:
        return self.root / "owner"

    @property
    def settings(self) -> Path:
        return self.root / "settings.toml"

    @property
    def envs(self) -> Path:
        return self.root / "envs"

    @property
    def builds(self) -> Path:
        return self.root / "builds"

    @property
    def names(self) -> Path:
        return self.root / "names"

    @property
    def by_text(self) -> Path:
        return self.root / "by-text"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    @property
    def packages(self) -> Path:
        return self.root / "pkgs"

    @property
    def uv_cache(self) -> Path:
        return self.root / "uv-cache"

    @property
    def packs(self) -> Path:
        return self.root / "packs"

    @property
    def trash(self) -> Path:
        return self.root / "trash"

    def directories(self) -> tuple[Path, ...]:
        """Return the directories that a store consists of, the root first."""
        return (
            self.root, self.envs, self.builds, self.names, self.by_text, self.locks, self.packages, self.uv_cache,
            self.trash,
        )  # fmt: skip

    def publication(self, name: EnvName) -> Path:
        return self.envs / name

    def alias(self, alias: Alias) -> Path:
        return self.envs / alias

    def lock(self, name: EnvName) -> Path:
        return self.locks / f"{name}.lock"

    def name(self, name: EnvName) -> Path:
        return self.names / name

    def build(self, build_id: BuildId) -> BuildPaths:
        return BuildPaths(self.builds / build_id)


@dataclass(frozen=True, slots=True)
class BuildPaths:
    """The paths of one build."""

    directory: Path

    @property
    def lease(self) -> Path:
        return self.directory / "lease"

    @property
    def record(self) -> Path:
        return self.directory / "record.json"

    @property
    def lockfile(self) -> Path:
        return self.directory / "conda-lock.yml"

    @property
    def spec(self) -> Path:
        return self.directory / "spec.yml"

    @property
    def log(self) -> Path:
        return self.directory / "build.log"

    @property
    def activation(self) -> Path:
        return self.directory / "activation"

    def prefix(self, name: EnvName) -> Path:
        return self.directory / "envs" / name
