"""envmgr keeps conda environments on the hosts of a cluster: one name, one build, the same packages everywhere.

What a runner needs is `ensure`; `name` tells a spec's name without a store; ``import envmgr.aio`` has the same for
event loops. Importing this package imports nothing third-party.
"""

from envmgr.client import Environment, ensure, name
from envmgr.errors import (
    AliasTaken,
    BuilderDied,
    BuildFailed,
    Cancelled,
    ChannelError,
    CoordinatorUnavailable,
    Corrupt,
    EnvironmentInUse,
    EnvironmentNotFound,
    EnvmgrError,
    IncompatibleHost,
    InvalidSpec,
    LockfileMismatch,
    NameCollision,
    NetworkError,
    NoSpace,
    Offline,
    PermissionRefused,
    PolicyRefused,
    StoreTooNew,
    TimedOut,
    Unsatisfiable,
    UnsuitableFilesystem,
    UsageError,
)
from envmgr.version import __version__

__all__ = [
    "AliasTaken",
    "BuildFailed",
    "BuilderDied",
    "Cancelled",
    "ChannelError",
    "CoordinatorUnavailable",
    "Corrupt",
    "Environment",
    "EnvironmentInUse",
    "EnvironmentNotFound",
    "EnvmgrError",
    "IncompatibleHost",
    "InvalidSpec",
    "LockfileMismatch",
    "NameCollision",
    "NetworkError",
    "NoSpace",
    "Offline",
    "PermissionRefused",
    "PolicyRefused",
    "StoreTooNew",
    "TimedOut",
    "Unsatisfiable",
    "UnsuitableFilesystem",
    "UsageError",
    "__version__",
    "ensure",
    "name",
]
