"""The tree of errors that envmgr raises, and the one table of their codes.

Every error that a caller can act on has a class of its own, a stable ``code`` (for JSON and for other languages), an
HTTP status (for the daemon's routes) and an exit code (for the command line). The three stand side by side as class
attributes; `TABLE` collects them, and the README's table is tested against it.

An error has ``message`` (what, where and why, one paragraph), ``hint`` (what to do about it, or ``None``),
``fields`` (the facts as JSON values, for programs) and ``is_transient`` (the same call may succeed later without
anybody changing anything).

This module is on the hot path: it imports nothing.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from envmgr.model import Problem, Usage


class EnvmgrError(Exception):
    """The base of every error that envmgr raises on purpose; raised itself only for what nobody foresaw."""

    code = "unexpected"
    http_status = 500
    exit_code = 1
    is_transient = False

    def __init__(self, message: str, *, hint: "str | None" = None, **fields: object) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.fields: dict[str, object] = fields

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\nhint: {self.hint}"

    def to_json(self) -> "dict[str, object]":
        """Return the error's one shape on every wire: code, message, hint, is_transient, fields."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "is_transient": self.is_transient,
            "fields": self.fields,
        }


class BuildFailed(EnvmgrError):
    """A step of a build failed for a reason that no other class names; the log says more."""

    code = "build_failed"


class BuilderDied(EnvmgrError):
    """The builder process ended without an answer (killed, out of memory, crashed)."""

    code = "builder_died"
    is_transient = True


class RolloutFailed(EnvmgrError):
    """Hosts of the cluster could not do what was declared; the fields' rows say which and why."""

    code = "rollout_failed"


class UsageError(EnvmgrError):
    """The call itself makes no sense: a malformed name or alias, options that exclude each other, a bad setting."""

    code = "usage"
    http_status = 400
    exit_code = 2


class InvalidSpec(EnvmgrError):
    """A spec cannot be read; ``problems`` names every one with line and column."""

    code = "invalid_spec"
    http_status = 422
    exit_code = 3

    def __init__(self, message: str, problems: "Sequence[Problem]" = (), *, hint: "str | None" = None) -> None:
        super().__init__(message, hint=hint, problems=[problem.to_json() for problem in problems])
        self.problems = tuple(problems)


class Unsatisfiable(EnvmgrError):
    """No set of packages meets the requirements; the message is the solver's own explanation."""

    code = "unsatisfiable"
    http_status = 422
    exit_code = 4


class ChannelError(EnvmgrError):
    """A channel or package index answered, but with a refusal (missing, 401, 404, unreadable repodata)."""

    code = "channel"
    http_status = 502
    exit_code = 5


class NetworkError(ChannelError):
    """A channel or package index could not be reached, or broke off; trying again may help."""

    code = "network"
    is_transient = True


class Offline(ChannelError):
    """Offline mode is on and something would have to be downloaded."""

    code = "offline"


class EnvironmentNotFound(EnvmgrError):
    """Nothing of that name or alias is in the store, and there is no spec to create it from."""

    code = "not_found"
    http_status = 404
    exit_code = 6


class HostUnknown(EnvmgrError):
    """No host of that name is or was in the cluster."""

    code = "host_unknown"
    http_status = 404
    exit_code = 6


class EnvironmentInUse(EnvmgrError):
    """Processes use the environment; ``users`` names them."""

    code = "in_use"
    http_status = 409
    exit_code = 7
    is_transient = True

    def __init__(self, message: str, users: "Sequence[Usage]" = (), *, hint: "str | None" = None) -> None:
        super().__init__(message, hint=hint, users=[user.to_json() for user in users])
        self.users = tuple(users)


class DeclaredInCluster(EnvmgrError):
    """The environment is declared for this host by the cluster, and only the cluster's commands take it away."""

    code = "declared"
    http_status = 409
    exit_code = 7


class AliasTaken(EnvmgrError):
    """The alias names another environment; an alias never changes its target silently."""

    code = "alias_taken"
    http_status = 409
    exit_code = 7


class TimedOut(EnvmgrError):
    """The caller's own time limit passed while waiting for another process's build or while building."""

    code = "timed_out"
    http_status = 504
    exit_code = 8
    is_transient = True


class CoordinatorUnavailable(EnvmgrError):
    """The cluster's coordinator is needed for this step and does not answer."""

    code = "coordinator"
    http_status = 503
    exit_code = 9
    is_transient = True


class ClaimLost(CoordinatorUnavailable):
    """A lock held in the cluster is no longer certainly ours; what it guarded was not done, or is void."""

    code = "claim_lost"


class DaemonUnavailable(EnvmgrError):
    """The daemon that owns the store cannot be reached, or stopped answering; nothing that it had made is lost."""

    code = "daemon"
    http_status = 503
    exit_code = 9
    is_transient = True


class Busy(EnvmgrError):
    """As much runs already as may: work of a daemon, instances of a program; ``retry_after_s`` tells when to ask."""

    code = "busy"
    http_status = 429
    exit_code = 9
    is_transient = True


class NoSpace(EnvmgrError):
    """The file system of the store is out of bytes or inodes."""

    code = "no_space"
    http_status = 507
    exit_code = 10


class PermissionRefused(EnvmgrError):
    """The operating system or the store's owner does not allow it."""

    code = "permission"
    http_status = 403
    exit_code = 11


class Unauthenticated(PermissionRefused):
    """The daemon does not know who asks: over TCP, the token is missing or wrong."""

    code = "unauthenticated"
    http_status = 401


class PolicyRefused(PermissionRefused):
    """A setting of this site does not allow it; the message names the setting."""

    code = "policy"


class UnsuitableFilesystem(PermissionRefused):
    """The store lies where a needed property (locks that exclude, symlinks) does not hold."""

    code = "filesystem"


class StoreTooNew(PermissionRefused):
    """The store was written by a newer envmgr; this one may not touch it."""

    code = "store_too_new"


class ClusterTreeRefused(PermissionRefused):
    """ZooKeeper's tree is not this host's cluster (none, another, emptied, of a newer envmgr); nothing is touched."""

    code = "cluster_tree"


class Corrupt(EnvmgrError):
    """Bytes are not what they must be: a package against its hash, a record, a link, a prefix."""

    code = "corrupt"
    exit_code = 12


class NameCollision(Corrupt):
    """Two different specs have the same short name (2**-64 by chance): the full digests differ."""

    code = "name_collision"


class IncompatibleHost(EnvmgrError):
    """The lockfile was made for another machine class than this host's."""

    code = "incompatible_host"
    http_status = 409
    exit_code = 13


class UnsuitableEnvironment(EnvmgrError):
    """The environment cannot work with the system that is to use it (Ray, Spark, pyjava, …): what it lacks, or has."""

    code = "unsuitable"
    http_status = 409
    exit_code = 15


class LimitExceeded(EnvmgrError):
    """A program was ended because it used more than its limits allow (memory, wall time); `fields` say which."""

    code = "limit_exceeded"
    http_status = 409
    exit_code = 16


class LockfileMismatch(EnvmgrError):
    """The given lockfile does not satisfy the spec, or differs from the one already in force for the name."""

    code = "lockfile_mismatch"
    http_status = 409
    exit_code = 14


class LockfileTooLarge(LockfileMismatch):
    """A lockfile is larger than what the cluster carries, even compressed and in parts."""

    code = "lockfile_too_large"
    http_status = 413


class Cancelled(EnvmgrError):
    """The caller ended the operation (SIGINT, or a cancel request); the command line ends with 143 after SIGTERM."""

    code = "cancelled"
    http_status = 499
    exit_code = 130


def _collect(cls: "type[EnvmgrError]") -> "dict[str, type[EnvmgrError]]":
    table = {cls.code: cls}
    for sub in cls.__subclasses__():
        table.update(_collect(sub))
    return table


TABLE: "Mapping[str, type[EnvmgrError]]" = _collect(EnvmgrError)
"""Stable code -> class, for every error above."""


def from_json(document: "Mapping[str, object]") -> EnvmgrError:
    """Rebuild an error that crossed a process boundary from `EnvmgrError.to_json`.

    ``problems`` and ``users`` stay in ``fields`` as plain JSON; only the process that found them has the records.
    """
    cls = TABLE.get(str(document.get("code")), EnvmgrError)
    error = cls.__new__(cls)
    fields = document.get("fields")
    hint = document.get("hint")
    EnvmgrError.__init__(error, str(document.get("message", "")), hint=None if hint is None else str(hint))
    if isinstance(fields, dict):
        error.fields = dict(fields)
    if isinstance(error, InvalidSpec):
        error.problems = ()
    if isinstance(error, EnvironmentInUse):
        error.users = ()
    return error
