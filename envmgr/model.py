"""The frozen records that the parts hand each other.

Plain data with no behaviour beyond (de)serialisation; every time is UTC seconds since the epoch, every size bytes,
every duration seconds. Each ``to_json`` returns a record whose keys are always all present (``None``, never absence).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from envmgr.names import Alias, BuildId, EnvName

Json = Mapping[str, object]
Manager = Literal["conda", "pip"]
State = Literal["ready", "damaged", "building", "failed", "absent"]


# ---------------------------------------------------------------------------------------------------- what is asked for


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a document, at a one-based line and column (0 where none applies)."""

    line: int
    column: int
    message: str
    hint: str | None = None

    def to_json(self) -> Json:
        return {"line": self.line, "column": self.column, "message": self.message, "hint": self.hint}

    def __str__(self) -> str:
        where = f"line {self.line}, column {self.column}: " if self.line else ""
        return f"{where}{self.message}" + (f" ({self.hint})" if self.hint else "")


@dataclass(frozen=True, slots=True)
class CondaRequirement:
    """A normalised MatchSpec; it counts only on `platforms` (sorted selector words) where any are given."""

    match_spec: str
    platforms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PipRequirement:
    """A normalised PEP 508 requirement (or a bare URL); it counts only on `platforms` (selector words), if any.

    `hashes` (sorted, such as ``sha256:…``) are those of ``--hash=``: whatever is locked for it must have one of them.
    """

    requirement: str
    platforms: tuple[str, ...] = ()
    hashes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PipOption:
    """A pip option that changes what is found, such as ``("--extra-index-url", "https://…")``; value may be empty."""

    flag: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Spec:
    """What was asked for, parsed and normalised.

    `canonical_text` is the whole identity and `digest` its SHA-256 (64 hexadecimal digits); `name` follows from it.
    `label` (the document's ``name:``), `warnings` and `source_text` are not part of the identity. For a document that
    is itself a conda-lock.yml, `is_lockfile` is true, the requirement fields are empty and `source_text` is the
    lockfile. `pip_constraints` bound what pip may choose without asking for anything. `includes` are the requirements
    files that the document names, by the words that name them; like `source_text` they hold no credentials.
    """

    channels: tuple[str, ...]
    has_nodefaults: bool
    conda: tuple[CondaRequirement, ...]
    pip: tuple[PipRequirement, ...]
    pip_options: tuple[PipOption, ...]
    variables: tuple[tuple[str, str], ...]
    platforms: tuple[str, ...]
    is_lockfile: bool
    canonical_text: str
    digest: str
    name: EnvName
    pip_constraints: tuple[PipRequirement, ...] = ()
    label: str | None = field(default=None, compare=False)
    warnings: tuple[Problem, ...] = field(default=(), compare=False)
    source_text: str = field(default="", compare=False)
    includes: tuple[tuple[str, str], ...] = field(default=(), compare=False, repr=False)

    @property
    def has_includes(self) -> bool:
        """Whether the name follows from more than the document's own text."""
        return bool(self.includes)


# ------------------------------------------------------------------------------------------------------ who asks for it


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks the daemon, as the kernel or a token says; `user` is the user's or the token's name.

    `uid` and `pid` are those of the process at the other end of the socket, ``None`` over TCP.
    """

    user: str
    role: Literal["use", "admin"]
    uid: int | None = None
    pid: int | None = None


# --------------------------------------------------------------------------------------------------- exact packages


@dataclass(frozen=True, slots=True)
class LockedPackage:
    """One artifact: of conda with `build` and md5 and/or sha256, of pip with a sha256 (or a version-control URL)."""

    manager: Manager
    name: str
    version: str
    url: str
    sha256: str | None
    md5: str | None
    build: str | None
    subdir: str | None
    dependencies: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class BuiltWheel:
    """The wheel that the host which solved built from the source distribution of the pip package `name`."""

    name: str
    file_name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class VirtualPackage:
    """A property of a machine that packages may require, such as ``__glibc`` 2.36."""

    name: str
    version: str
    build: str = "0"


@dataclass(frozen=True, slots=True)
class Lockfile:
    """The exact packages of one name on one machine class; `digest` is the SHA-256 of `text`'s artifacts.

    `virtual_packages` are those that the packages really require of a machine, with the requirement's text (such as
    ``("__glibc", ">=2.17")``); a host checks itself against them before it installs.
    """

    subdir: str
    channels: tuple[str, ...]
    packages: tuple[LockedPackage, ...]
    virtual_packages: tuple[tuple[str, str], ...]
    digest: str
    text: str = field(compare=False)
    not_reproducible: tuple[str, ...] = ()
    built_wheels: tuple[BuiltWheel, ...] = ()


@dataclass(frozen=True, slots=True)
class LockInForce:
    """Which lockfile the cluster has in force for one name on one machine class, without its text."""

    generation: int
    digest: str


@dataclass(frozen=True, slots=True)
class PublishedLockfile:
    """A generation of the lockfile of one name on one machine class, as the whole cluster has it; it never changes.

    The highest generation is in force. `digest` is `Lockfile.digest` of `text`. `archives` is the URL at which the host
    that solved it gives archives: it has all of them.
    """

    name: EnvName
    machine_class: str
    generation: int
    digest: str
    text: str = field(repr=False)
    archives: str | None = field(default=None, compare=False)


# --------------------------------------------------------------------------------------------------- what is there


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of one finished build; written once, before publication, as ``record.json``."""

    format: int
    name: EnvName
    build_id: BuildId
    digest: str
    lock_digest: str
    machine_class: str
    label: str | None
    created_at: float
    duration_s: float
    phases_s: Mapping[str, float]
    envmgr_version: str
    host: str
    packages: int
    size_bytes: int
    python_version: str | None
    skipped_link_scripts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    downloaded_bytes: int = 0
    sibling_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """A process that uses a build: by holding its lease, or by running, mapping or sitting in its files."""

    pid: int
    uid: int
    command: str
    how: Literal["lease", "exe", "cwd", "maps"]

    def to_json(self) -> Json:
        return {"pid": self.pid, "uid": self.uid, "command": self.command, "how": self.how}

    def __str__(self) -> str:
        return f"{self.pid} ({self.command})"


@dataclass(frozen=True, slots=True)
class Failure:
    """The last failure of a name: kept until a build succeeds or is asked for with ``retry``.

    Until `retry_at`, whoever asks gets this failure instead of a new try; ``None``: the next one tries at once.
    """

    name: EnvName
    at: float
    code: str
    message: str
    hint: str | None
    log: str
    attempts: int
    retry_at: float | None = None

    def to_json(self) -> Json:
        return {
            "at": self.at,
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "attempts": self.attempts,
            "retry_at": self.retry_at,
        }


@dataclass(frozen=True, slots=True)
class EnvironmentInfo:
    """One environment as ``list`` and ``show`` tell it."""

    name: EnvName
    state: State
    label: str | None
    aliases: tuple[Alias, ...]
    path: Path
    prefix: Path | None
    build_id: BuildId | None
    digest: str | None
    lock_digest: str | None
    machine_class: str | None
    created_at: float | None
    size_bytes: int | None
    packages: int | None
    python_version: str | None
    is_pinned: bool
    used_by: tuple[Usage, ...]
    failure: Failure | None
    last_used_at: float | None = None


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that `verify` found wrong; `names` are all environments that share the damaged bytes."""

    path: Path
    message: str
    names: tuple[EnvName, ...] = ()

    def to_json(self) -> Json:
        return {"path": str(self.path), "message": self.message, "names": list(self.names)}
