"""Inside a task: is this really the environment that was asked for?

A raylet without the plugin ignores the field ``envmgr`` and runs the task in its own Python. `envmgr.runners.ray.
runtime_env` and the hook make such a node refuse (`envmgr.runners.ray.translation.TRIPWIRE`); who writes the field by
hand asks here, or puts `checked` on his function.

This module travels with the function that uses it (by value): neither envmgr nor anything but Ray has to be importable
where the task runs. So it stands alone.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import ray
import ray.cloudpickle

_Function = TypeVar("_Function", bound=Callable[..., Any])


def check() -> str:
    """Return the prefix of the environment that this task runs in.

    Raises `RuntimeError` where the task asked for an environment and runs in another Python: at once, instead of with
    packages that nobody chose. Without an environment that was asked for, the prefix of this Python.
    """
    asked = ray.get_runtime_context().runtime_env.get("envmgr")
    given = os.environ.get("ENVMGR_RAY_PREFIX", "")
    if asked is None or (given and os.path.realpath(sys.prefix) == os.path.realpath(given)):
        return sys.prefix
    node = ray.util.get_node_ip_address()
    if given:
        raise RuntimeError(f"this worker on node {node} was to run in {given}, and runs in {sys.prefix}")
    raise RuntimeError(
        f"this worker runs in {sys.prefix}, not in {_shown(asked)}: the raylet of node {node} was started "
        "without envmgr's plugin\nhint: start it with "
        'RAY_RUNTIME_ENV_PLUGINS=\'[{"class": "envmgr.runners.ray.EnvmgrPlugin"}]\''
    )


def _shown(asked: Any) -> str:
    """Name what was asked for; a spec is long, and its variables are nobody else's to read in a log."""
    name = asked.get("name") if isinstance(asked, dict) and "dependencies" not in asked else asked
    return f"the environment {name!r}" if isinstance(name, str) and "\n" not in name else "that of its spec"


def checked(function: _Function) -> _Function:
    """Make a function check first; below ``@ray.remote``."""

    @functools.wraps(function)
    def wrapper(*arguments: Any, **options: Any) -> Any:
        check()
        return function(*arguments, **options)

    return wrapper  # type: ignore[return-value]  # of the same signature


ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
