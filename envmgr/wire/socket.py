"""What crosses the daemon's socket: HTTP and JSON, below ``/v1``.

Every answer is one of two records: ``{"data": …}`` with one of the records below, or ``{"error": …}`` with an
`envmgr.errors.EnvmgrError.to_json`. Keys are always all present (``None``, never absence). A request's unknown keys are
refused by the daemon; an answer's are left alone by the client, so that an older client meets a newer daemon.

=======  ==================================  ==========================================================================
POST     /v1/names                           `NameRequest` → `Named`
POST     /v1/environments                    `EnsureRequest` → 200 `Ensured` with `ready`, else 202 with `operation`
GET      /v1/environments                    → `Environments`
GET      /v1/environments/X                  → `Environment`; X is a name or an alias, here and below
DELETE   /v1/environments/X                  ``?mode=refuse|when-free&forget=false`` → `Removed`
GET      /v1/environments/X/log              → `Text`; so ``/lockfile`` and ``/spec``
POST     /v1/environments/X/relock           `RelockRequest` → 202 `Accepted`
POST     /v1/environments/X/repair           → 202 `Accepted`
PUT      /v1/environments/X/pin              → `Pinned`; ``DELETE`` unpins
POST     /v1/lockfiles                       `LockRequest` → 202 `Accepted`; solved if none is in force
GET      /v1/aliases                         → `Aliases`
PUT      /v1/aliases/A                       `AliasRequest` → `Aliases` with this one; ``DELETE`` drops it
POST     /v1/collections                     `CollectRequest` → 202 `Accepted`
GET      /v1/operations                      → `Operations`, the newest last
GET      /v1/operations/ID                   → `Operation`
DELETE   /v1/operations/ID                   → `Operation`, told to stop; its end comes with its events
GET      /v1/operations/ID/events            server-sent events, see below
GET      /v1/status                          → `Status`
GET      /v1/health/live, /v1/health/ready   → `Health`; ``ready`` answers 503 while the daemon drains
=======  ==================================  ==========================================================================

Below ``/v1/cluster`` are those of `envmgr.wire.cluster`. ``/metrics`` (Prometheus) and ``/openapi.json`` stand at the
root.

**Events** of an operation are numbered from 1. ``event: progress`` has an `envmgr.events.Event` as its data, ``event:
state`` an `Operation` whose state changed, ``event: end`` the finished `Operation`, after which the stream ends.
``Last-Event-ID`` resumes behind that number; of what is no longer kept, an ``event: lost`` names the count. A comment
comes every `KEEPALIVE_S` seconds; a client that hears nothing for three times as long is not connected any more.

**Leases are handed over on the connection.** When an answer says that an environment is ready (`Ensured.ready`, ``end``
of an operation that made one), the daemon holds its lease until the connection ends or is used for another request, so
that a client that takes its own before it closes the connection never loses it in between.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

VERSION = 1
PREFIX = "/v1"
KEEPALIVE_S = 5.0

Kind = Literal["ensure", "lock", "relock", "repair", "collect"]
OperationState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
RemoveMode = Literal["refuse", "when-free"]
Role = Literal["use", "admin"]


# ------------------------------------------------------------------------------------------------------------ requests


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecDocument:
    """A spec's text, with the requirements files that its ``-r`` and ``-c`` name, by the words that name them."""

    text: str
    includes: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class NameRequest:
    """Which name has this spec?"""

    spec: SpecDocument


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsureRequest:
    """Have this environment ready: exactly one of `spec` and `name` (a name or an alias of one that was made before).

    `lockfile` is the text of a conda-lock.yml to build exactly; a user's must equal the one in force, since the first
    is everybody's. `cancel_when_unwanted`: when nobody is connected any more who waits for the operation, and all who
    asked for it said so, it is cancelled. `request_id`: up to 64 characters of the client's choice; the operation that
    was begun for this request, and not joined, has it, too.
    """

    spec: SpecDocument | None = None
    name: str | None = None
    alias: str | None = None
    move_alias: bool = False
    lockfile: str | None = None
    retry: bool = False
    cancel_when_unwanted: bool = False
    request_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LockRequest:
    """Find the lockfile of this spec; build nothing."""

    spec: SpecDocument
    cancel_when_unwanted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RelockRequest:
    """Solve again; `exclude_newer` is an RFC 3339 time."""

    exclude_newer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasRequest:
    """Let an alias stand for this environment (a name or an alias); with `move` although it stands for another."""

    environment: str
    move: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectRequest:
    """Free what the settings' limits, or these instead of them, say; seconds and bytes; ``None`` is the setting."""

    dry_run: bool = False
    max_age_s: float | None = None
    max_total_bytes: int | None = None
    min_age_s: float | None = None


# ------------------------------------------------------------------------------------------------------------- answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong, or worth a warning, in a document, at a one-based line and column (0: nowhere)."""

    line: int
    column: int
    message: str
    hint: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """What a document alone tells."""

    name: str
    label: str | None
    digest: str
    canonical_text: str
    is_lockfile: bool
    warnings: tuple[Problem, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A build that can be used now; see the module on how its lease is handed over."""

    name: str
    build_id: str
    path: str
    prefix: str


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A process that uses an environment."""

    pid: int
    uid: int
    user: str | None
    command: str
    how: Literal["lease", "exe", "cwd", "maps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The last failure of a name; `retry_at` is when it may be tried again without ``retry``."""

    at: float
    code: str
    message: str
    hint: str | None
    attempts: int
    retry_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """One environment, see `envmgr.model.EnvironmentInfo`; `builds` are those on disk, the published one first."""

    name: str
    state: Literal["ready", "damaged", "building", "failed", "absent"]
    label: str | None
    aliases: tuple[str, ...]
    path: str
    prefix: str | None
    build_id: str | None
    builds: tuple[str, ...]
    digest: str | None
    lock_digest: str | None
    machine_class: str | None
    created_at: float | None
    last_used_at: float | None
    size_bytes: int | None
    packages: int | None
    python_version: str | None
    is_pinned: bool
    used_by: tuple[User, ...]
    failure: Failure | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Environments:
    root: str
    environments: tuple[Environment, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """`is_deleted` is false while somebody still uses the build (``when-free``)."""

    name: str
    build_id: str | None
    is_deleted: bool
    used_by: tuple[User, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A document that belongs to an environment."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    name: str
    is_pinned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Aliases:
    """Alias → name."""

    aliases: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """The one shape of an error; see `envmgr.errors.EnvmgrError.to_json`."""

    code: str
    message: str
    hint: str | None
    is_transient: bool
    fields: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsureResult:
    """`was_built`: this operation built it."""

    ready: Ready
    was_built: bool
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LockResult:
    name: str
    lock_digest: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaceResult:
    """What relock and repair came to; `is_new`: with other packages than before."""

    name: str
    build_id: str
    old_build_id: str
    is_new: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """One thing that was (or would be) freed, and why; `name` where it is an environment."""

    path: str
    name: str | None
    reason: str
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectResult:
    dry_run: bool
    collected: tuple[Collected, ...]


Result = EnsureResult | LockResult | ReplaceResult | CollectResult
RESULTS: Mapping[Kind, type[Result]] = {
    "ensure": EnsureResult,
    "lock": LockResult,
    "relock": ReplaceResult,
    "repair": ReplaceResult,
    "collect": CollectResult,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Something that takes a while. `position`: how many are to begin before it (0: it has begun).

    `by` is the user that asked first, `request_id` that of his request; `waiters` are the connections that listen now.
    `result` is that of `RESULTS` when it succeeded, `error` is there when it failed or was cancelled; that of one that
    the daemon cancelled by itself has the field ``is_by_daemon``: it may be asked for again. Finished ones are kept for
    some minutes.
    """

    id: str
    kind: Kind
    name: str | None
    state: OperationState
    by: str
    request_id: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    position: int
    phase: str | None
    waiters: int
    result: Result | None
    error: Error | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operations:
    operations: tuple[Operation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    operation: Operation


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensured:
    """Exactly one of the two is there."""

    ready: Ready | None
    operation: Operation | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    status: Literal["ok", "draining"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """How this host stands to its cluster.

    `uuid` and `revision` are the cluster's, as far as this host has read it (``None``, 0: not yet). `declared` counts
    the environments that the cluster wants here. `problem` is why the host does not do what the cluster wants, or what
    of it, in words.
    """

    host: str
    is_connected: bool
    uuid: str | None
    revision: int
    declared: int
    is_cordoned: bool
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The daemon and its store, at a glance; `role` is what the asker may do, `cluster` is ``None`` outside of one."""

    version: str
    pid: int
    root: str
    host: str
    mode: Literal["personal", "service"]
    started_at: float
    is_draining: bool
    role: Role
    environments: int
    leases: int
    running: int
    queued: int
    free_bytes: int
    size_bytes: int
    cluster: Membership | None = None
