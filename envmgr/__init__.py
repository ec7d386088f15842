"""envmgr keeps conda environments on the hosts of a cluster: one name, one build, the same packages everywhere.

What a runner needs is `ensure`; `name` tells a spec's name without a store; `run` runs a program to its end, within
`Limits`; ``import envmgr.aio`` has `ensure` for event loops. Importing this package imports nothing third-party.
"""

from envmgr.client import Environment, ensure, name
from envmgr.errors import (
    AliasTaken,
    BuilderDied,
    BuildFailed,
    Busy,
    Cancelled,
    ChannelError,
    CoordinatorUnavailable,
    Corrupt,
    DaemonUnavailable,
    EnvironmentInUse,
    EnvironmentNotFound,
    EnvmgrError,
    IncompatibleHost,
    InvalidSpec,
    LimitExceeded,
    LockfileMismatch,
    NameCollision,
    NetworkError,
    NoSpace,
    Offline,
    PermissionRefused,
    PolicyRefused,
    StoreTooNew,
    TimedOut,
    Unauthenticated,
    Unsatisfiable,
    UnsuitableEnvironment,
    UnsuitableFilesystem,
    UsageError,
)
from envmgr.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from envmgr.runners.program.limits import Limits
    from envmgr.runners.program.running import run
else:

    def __getattr__(name: str) -> object:
        """Import what runs programs when it is asked for; who only leases pays nothing for it."""
        if name == "Limits":
            from envmgr.runners.program.limits import Limits  # noqa: PLC0415

            return Limits
        if name == "run":
            from envmgr.runners.program.running import run  # noqa: PLC0415

            return run
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AliasTaken",
    "BuildFailed",
    "BuilderDied",
    "Busy",
    "Cancelled",
    "ChannelError",
    "CoordinatorUnavailable",
    "Corrupt",
    "DaemonUnavailable",
    "Environment",
    "EnvironmentInUse",
    "EnvironmentNotFound",
    "EnvmgrError",
    "IncompatibleHost",
    "InvalidSpec",
    "LimitExceeded",
    "Limits",
    "LockfileMismatch",
    "NameCollision",
    "NetworkError",
    "NoSpace",
    "Offline",
    "PermissionRefused",
    "PolicyRefused",
    "StoreTooNew",
    "TimedOut",
    "Unauthenticated",
    "Unsatisfiable",
    "UnsuitableEnvironment",
    "UnsuitableFilesystem",
    "UsageError",
    "__version__",
    "ensure",
    "name",
    "run",
]
