"""Ray: managed environments for jobs, tasks and actors.

Each raylet is started with::

    RAY_RUNTIME_ENV_PLUGINS='[{"class": "envmgr.runners.ray.EnvmgrPlugin"}]'

and then every ``runtime_env={"envmgr": …}`` (see `envmgr.runners.ray.request` for its values) has its environment on
each node, built once. What a driver may use of this package: `runtime_env` writes the field, and makes a node without
the plugin refuse it; `check` and `checked` do that inside a task; ``RAY_RUNTIME_ENV_HOOK=envmgr.runners.ray.hook``
translates the ``conda`` and ``pip`` of programs that know nothing of envmgr.

``ray`` is imported only with what needs it: the plugin and the check.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envmgr.runners.ray.translation import hook, runtime_env

if TYPE_CHECKING:
    from envmgr.runners.ray.guard import check, checked
    from envmgr.runners.ray.plugin import EnvmgrPlugin

__all__ = ["EnvmgrPlugin", "check", "checked", "hook", "runtime_env"]


def __getattr__(name: str) -> object:
    if name == "EnvmgrPlugin":
        from envmgr.runners.ray.plugin import EnvmgrPlugin  # noqa: PLC0415 - imports ray

        return EnvmgrPlugin
    if name in {"check", "checked"}:
        from envmgr.runners.ray import guard  # noqa: PLC0415 - imports ray

        return getattr(guard, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
