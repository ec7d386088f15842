"""What the cluster's hosts write into ZooKeeper: records, and their bytes there.

The tree, below the setting ``zookeeper_root``::

    v1/cluster                       `Cluster`: who the cluster is, its settings and machine classes
    v1/revision                      `Revision`: set in the transaction of every write of intent
    v1/hosts/<host>                  `Host`; ephemeral: the host lives
    v1/cordons/<host>                empty: the host begins nothing new
    v1/envs/<name>                   `Intent`
    v1/aliases/<alias>               the name, as ASCII
    v1/lockfiles/<name>/<class>/<generation>           `Manifest`, written once; ten digits, so that names sort
    v1/lockfiles/<name>/<class>/<generation>-failed    `SolveFailure`
    v1/lockfiles/<name>/<class>/parts-<solve>/<n>      a part of a lockfile's compressed text
    v1/status/<host>                 `HostStatus`; the hosts that are known
    v1/progress/<host>               `HostProgress`; ephemeral
    v1/archives/<host>@<URL>         empty; ephemeral: a host that gives archives to the others, one of the few that do
    v1/giving/<host>                 empty; ephemeral: a host that would give archives, and found room among those few
    v1/claims/…                      see `envmgr.coordination.zookeeper.claims`

The bytes of a record are JSON, compressed with zlib; a reader leaves unknown keys alone and takes defaults for missing
ones, so that hosts of two versions live together. `FORMAT` rises when that is not enough: a host refuses a tree whose
`Cluster.format` is higher than its own, and a cluster is upgraded by upgrading every host first, then running
``envmgr cluster settings --upgrade-format``.

Times are UTC seconds since the epoch, by the clock of the host that wrote them.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from envmgr import codec
from envmgr.errors import Corrupt

T = TypeVar("T")

FORMAT = 1
LARGEST_NODE_BYTES = 900_000
"""ZooKeeper's own limit for a whole request is 1 MiB, and exceeding it looks like a lost connection."""
LARGEST_TEXT_BYTES = 32 << 20
"""Of a record; no host writes one of which 900,000 bytes are more than some megabytes of text."""
_MOST_VALUES = 2_000_000
_LONGEST_WORDS = 300
_HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")

EnvState = Literal["pending", "waiting", "building", "ready", "failed", "removing", "absent"]
"""What a host says of a declared environment: ``pending`` it has not begun, ``waiting`` for its turn in a rollout or
for another host's solve, ``removing`` unpublished but in use."""


def encode(record: object) -> bytes:
    """Return the bytes of a record in ZooKeeper; what is no Unicode in it (a file's name may be none) gets lost."""
    text = json.dumps(dataclasses.asdict(record), ensure_ascii=False, separators=(",", ":"))  # type: ignore[call-overload]
    return zlib.compress(text.encode(errors="replace"), 6)


def decode(cls: type[T], data: bytes, where: str) -> T:
    """Rebuild a record from its bytes; raises `Corrupt`, naming the node `where` they stand.

    Any host of the cluster may have written them: whatever they are, they cost some memory and raise nothing else, and
    no half of a surrogate pair and no number without end comes of them, which others could not write down again.
    """
    try:
        decompressor = zlib.decompressobj()
        text = decompressor.decompress(data, LARGEST_TEXT_BYTES)
        if not decompressor.eof:
            raise ValueError("it is cut off, or too long")
        if sum(map(text.count, (b",", b"[", b"{"))) > _MOST_VALUES:  # each takes far more memory than its text
            raise ValueError("it has far more values than any record")
        if _HALF_PAIR.search(text):
            text = json.dumps(json.loads(text), ensure_ascii=False).encode(errors="replace")
        return codec.load(cls, json.loads(text, parse_float=_finite, parse_constant=_finite))
    except (zlib.error, ValueError, ArithmeticError, RecursionError) as error:
        # The words of the error may repeat what stands there, and hosts tell each other of it.
        raise Corrupt(f"the node {where} in ZooKeeper is damaged: {str(error)[:_LONGEST_WORDS]}") from error


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("it has a number without end")
    return number


# ---------------------------------------------------------------------------------------------------------- the tree


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Who the cluster is. `settings` are those settings that every host of it shares, by key, as in a settings file.

    `classes` declare machine classes: class → virtual package → version (an empty version: the class has none).
    `heal` is a counter: a host that sees a higher one than it has answered brings what drifted back in line.
    """

    uuid: str
    format: int = FORMAT
    created_at: float = 0.0
    envmgr_version: str = ""
    settings: Mapping[str, object] = dataclasses.field(default_factory=dict)
    classes: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    heal: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What one revision changed: names of environments, ``cluster``, ``aliases/<alias>``, ``cordons/<host>``.

    `token` is one of its own: by it a writer who never heard the answer knows his write, and a host a restored tree.
    """

    revision: int
    what: tuple[str, ...]
    token: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """How often intent was written, and the last changes, so that a host that is little behind reads only those.

    `cluster` is the cluster's uuid, for who reads nothing else. `imported` is the number at which a whole document was
    imported last (0: never): from there on numbers go on far above any that a host can have seen before.
    """

    number: int
    changes: tuple[Change, ...] = ()
    cluster: str = ""
    imported: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """Which hosts: those named, those that have all the labels; both empty: all, also those that come later."""

    hosts: tuple[str, ...] = ()
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def matches(self, host: str, labels: Mapping[str, str]) -> bool:
        """Tell whether a host is meant."""
        if self.hosts and host not in self.hosts:
            return False
        return all(labels.get(key) == value for key, value in self.labels.items())


EVERYWHERE = Selector()


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """What the cluster wants of one environment. `generation` is the revision that wrote it last, so it only rises.

    `spec` is the whole `envmgr.model.Spec` as JSON, without credentials. `lock_generation` is the least generation of
    its lockfiles that may be installed; `cluster relock` raises it. `retries`: host (or ``*``) → how often an
    administrator asked for a new try. At most `max_parallel` hosts make it at a time; 0: all at once.
    """

    name: str
    generation: int
    state: Literal["present", "absent"]
    spec: Mapping[str, object]
    label: str | None = None
    selector: Selector = EVERYWHERE
    lock_generation: int = 1
    retries: Mapping[str, int] = dataclasses.field(default_factory=dict)
    max_parallel: int = 0
    declared_by: str = ""
    declared_at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A host that lives. `archives` is the URL at which others fetch archives; `instance` is new with each start.

    `machine_id` tells a host that came back from another one of the same name (a cloned image).
    """

    host: str
    instance: str
    machine_id: str
    boot_id: str
    store_id: str
    machine_class: str
    version: str
    address: str | None = None
    archives: str | None = None
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    virtual_packages: Mapping[str, str] = dataclasses.field(default_factory=dict)
    since: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvironmentStatus:
    """What one host says of one declared environment; `generation` is the intent's that it has acted on.

    `is_drift`: it is ready, but from another lockfile than the cluster's. `error` is an `EnvmgrError.to_json`.
    """

    name: str
    state: EnvState
    generation: int = 0
    lock_generation: int = 0
    lock_digest: str | None = None
    is_drift: bool = False
    error: Mapping[str, object] | None = None
    attempts: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    retry_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStatus:
    """All that one host says: one document, however many environments, written only when something changed.

    `revision` is the last one that it has read, `heal` the last it has answered. `drift` names environments of its own
    (not declared) that were built from another lockfile than the cluster's.
    """

    host: str
    instance: str
    revision: int = 0
    at: float = 0.0
    heal: int = 0
    environments: tuple[EnvironmentStatus, ...] = ()
    drift: tuple[str, ...] = ()
    problem: str | None = None
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a build on a host is; `percent` is of the whole build, as near as can be told."""

    name: str
    phase: str
    percent: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostProgress:
    """The builds that run on a host now."""

    host: str
    builds: tuple[Progress, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One generation of a lockfile: its text is the parts, joined and decompressed; `sha256` is of the text.

    `digest` is `envmgr.model.Lockfile.digest`. `archives` is the URL where the host that published it gives archives.
    """

    name: str
    machine_class: str
    generation: int
    digest: str
    sha256: str
    size_bytes: int
    parts_in: str
    parts: int
    published_by: str
    published_at: float
    token: int
    archives: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SolveFailure:
    """Why a generation cannot be solved, for every host, until an administrator has it tried again."""

    error: Mapping[str, object]
    host: str
    at: float
