"""What is asked of a cluster and told of it: declarations, rows, and what a daemon answers administrators.

Below ``/v1/cluster``, a daemon of a host of the cluster answers (`envmgr.wire.socket` says how):

=======  ==========================================  ==================================================================
GET      /v1/cluster                                 → `ClusterStatus`
POST     /v1/cluster/environments                    `DeclareRequest` → `DeclaredEnvironment`
GET      /v1/cluster/environments/X                  → `DeclaredEnvironment`; X is a name or an alias of the cluster;
                                                     ``?waiter=WORD``: one of many looks, each costs what is new
DELETE   /v1/cluster/environments/X                  → `DeclaredEnvironment`, unpublished everywhere
POST     /v1/cluster/environments/X/relock           → `DeclaredEnvironment`
POST     /v1/cluster/environments/X/retry            `RetryRequest` → `DeclaredEnvironment`
GET      /v1/cluster/environments/X/hosts/H          → `Row`
GET      /v1/cluster/hosts                           → `Hosts`
DELETE   /v1/cluster/hosts/H                         → `Hosts` without this one, which has gone for ever
PUT      /v1/cluster/hosts/H/cordon                  → `Hosts`; ``DELETE`` lets it begin work again
POST     /v1/cluster/heal                            → `Cluster`; hosts bring what drifted back in line
GET      /v1/cluster/aliases                         → `envmgr.wire.socket.Aliases`
PUT      /v1/cluster/aliases/A                       `envmgr.wire.socket.AliasRequest` → Aliases; ``DELETE`` drops it
GET      /v1/cluster/settings                        → `Cluster`
POST     /v1/cluster/settings                        `ClusterSettingsRequest` → `Cluster`
GET      /v1/cluster/intent                          → `Exported`
PUT      /v1/cluster/intent                          `ImportRequest` → `Cluster`
=======  ==========================================  ==================================================================
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from envmgr.wire.socket import SpecDocument
from envmgr.wire.tree import EVERYWHERE, Cluster, EnvState, Host, Intent, Selector

# ------------------------------------------------------------------------------------------------------ what is told


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """What an administrator declares: a spec (an `envmgr.model.Spec` as JSON), for which hosts, and how fast.

    `max_parallel` and `percent_parallel` (of the hosts that live now) exclude each other; 0: no bound.
    """

    spec: Mapping[str, object]
    selector: Selector = EVERYWHERE
    alias: str | None = None
    move_alias: bool = False
    max_parallel: int = 0
    percent_parallel: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One environment on one host, as an administrator sees it.

    `success` is ``None`` while it is not decided. `start` and `end` are times of the last try; of one that failed and
    is repeated by itself, `retry_at` says when.
    """

    host: str
    name: str
    success: bool | None
    state: EnvState
    is_live: bool
    phase: str | None
    percent: int | None
    start: float | None
    end: float | None
    message: str | None
    code: str | None
    hint: str | None
    is_drift: bool
    generation: int
    lock_generation: int
    lock_digest: str | None
    retry_at: float | None
    attempts: int = 0
    is_cordoned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationInfo:
    """One published lockfile, or why there is none (`error`)."""

    machine_class: str
    generation: int
    digest: str | None
    published_by: str
    published_at: float
    error: Mapping[str, object] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredEnvironment:
    """One declared environment with a row for each host that it is meant for."""

    name: str
    state: Literal["present", "absent"]
    generation: int
    label: str | None
    aliases: tuple[str, ...]
    selector: Selector
    lock_generation: int
    max_parallel: int
    declared_by: str
    declared_at: float
    rows: tuple[Row, ...]
    lockfiles: tuple[GenerationInfo, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HostInfo:
    """One known host; `live` is what it says of itself while it lives."""

    host: str
    is_live: bool
    is_cordoned: bool
    live: Host | None
    ready: int
    building: int
    failed: int
    drift: tuple[str, ...]
    seen_at: float
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStatus:
    """The cluster at one moment."""

    uuid: str
    revision: int
    environments: tuple[DeclaredEnvironment, ...]
    hosts: tuple[HostInfo, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """The whole intent as one document: what `import` puts into another (or the same, emptied) tree."""

    format: int
    uuid: str
    exported_at: float
    cluster: Cluster
    environments: tuple[Intent, ...]
    aliases: Mapping[str, str]
    cordons: tuple[str, ...]
    revision: int = 0
    lockfiles: tuple[Mapping[str, object], ...] = ()


# ---------------------------------------------------------------------------------- what is asked for over the socket


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclareRequest:
    """Declare the environment of this spec for these hosts; the fields are those of `Declaration` and `Selector`."""

    spec: SpecDocument
    hosts: tuple[str, ...] = ()
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    alias: str | None = None
    move_alias: bool = False
    max_parallel: int = 0
    percent_parallel: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRequest:
    """Let what failed be tried again at once, on one host or on all."""

    host: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettingsRequest:
    """Change what all hosts share: settings and machine classes; ``null`` takes one away.

    A value is as in a settings file (a list, a table, …), or the text that an environment variable would hold.
    """

    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)
    classes: Mapping[str, Mapping[str, str] | None] = dataclasses.field(default_factory=dict)
    upgrade_format: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """Put an exported intent into the cluster; `document` is the JSON of an `Exported`, as text."""

    document: str
    replace: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Hosts:
    """The hosts that are known."""

    hosts: tuple[HostInfo, ...]
