"""Ray's plugin: runs in the runtime_env agent of each raylet, and gives workers the environment they ask for.

Ray asks for `create` when nobody uses a uri yet, for `modify_context` before each worker, and for `delete_uri` when
the last worker and the last job that used it are gone. In between this process holds the lease of the build; each
worker holds one of its own, which its interpreter takes at its start.

What holds: of many at once that ask for one uri, one builds, and the build goes on as long as one of them waits, each
for its own time; one that Ray gave up (``setup_timeout_seconds``) leaves nothing running. All workers of a uri have one
build, also when the name leads to a newer one by now. What a worker could not run in is refused here, in words, because
a worker that cannot start tells nobody and is waited for without end.

What is not promised: that the lease ends with a job that ends while its environment is still built. Ray forgets to
give that back; the raylet's end does, or the next job of the same environment.

Ray's settings that matter are variables of the raylet. ``RAY_RUNTIME_ENV_ENVMGR_CACHE_SIZE_GB`` is 0 unless set:
otherwise Ray calls `delete_uri` only when ten gigabytes of unused environments are there, by sizes that it was told.
``RUNTIME_ENV_RETRY_TIMES`` (3) is how often a failing setup is tried, ``BAD_RUNTIME_ENV_CACHE_TTL_SECONDS`` (600) how
long its failure is then repeated without asking.

Source: ray/_private/runtime_env/plugin.py, context.py, agent/runtime_env_agent.py of Ray 2.60.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
from ray._private.runtime_env.context import RuntimeEnvContext
from ray._private.runtime_env.plugin import RuntimeEnvPlugin

from envmgr import aio
from envmgr.client import Environment
from envmgr.errors import EnvmgrError, TimedOut, UnsuitableEnvironment, UsageError
from envmgr.events import Event
from envmgr.runners import installed, requirements
from envmgr.runners.ray import request
from envmgr.runners.ray.translation import TRIPWIRE, TRIPWIRE_FIELD

_log = logging.getLogger(__name__)
_CACHE_SIZE = "RAY_RUNTIME_ENV_ENVMGR_CACHE_SIZE_GB"
_NEEDS = tuple(importlib.metadata.requires("ray") or ())
_RIVALS = ("conda", "pip", "uv", "py_executable", "container", "image_uri")
_OVERLAY = Path(__file__).parent / "overlay"
_DEFAULT_SETUP_TIMEOUT_S = 600.0
_FIRST_SAY = 0.95
"""The share of Ray's time limit after which we give up: our error says what was waited for, Ray's does not."""


class EnvmgrPlugin(RuntimeEnvPlugin):  # type: ignore[misc]  # Ray is not there where envmgr is checked
    """``runtime_env={"envmgr": …}``."""

    name = "envmgr"
    priority = 5  # before Ray's own, at 10: one of them refuses the tripwire that this one takes away

    def __init__(self) -> None:
        os.environ.setdefault(_CACHE_SIZE, "0")  # read by Ray as soon as this returns
        self._held: dict[str, _Held] = {}
        self._builds: dict[str, _Build] = {}

    @staticmethod
    def validate(runtime_env_dict: Mapping[str, Any]) -> None:
        """Refuse a value that says nothing, and fields that choose another Python; `UsageError`."""
        request.read(runtime_env_dict["envmgr"])
        rivals = [field for field in _RIVALS if runtime_env_dict.get(field)]
        if rivals:
            raise UsageError(
                f"runtime_env has envmgr and {' and '.join(rivals)}, which each choose the worker's Python",
                hint="what pip would install belongs into the spec's pip section",
            )

    def get_uris(self, runtime_env: Mapping[str, Any]) -> list[str]:
        """Return the one uri of a runtime_env, or none; asked for every runtime_env of the node."""
        value = runtime_env.get(self.name)
        return [] if value is None else [request.uri(value)]

    async def create(
        self, uri: str, runtime_env: Mapping[str, Any], _context: RuntimeEnvContext, logger: logging.Logger = _log
    ) -> float:
        """Make and lease the environment; any error fails the setup, with its text. Progress goes to `logger`."""
        if uri not in self._held:
            asked = request.read(runtime_env[self.name])
            build = self._builds.get(uri)
            if build is None or build.is_given_up:
                build = self._builds[uri] = _Build(asked)
            try:
                environment = await build.wait(logger, _timeout_s(asked, runtime_env))
            except EnvmgrError as error:
                raise error.with_traceback(None) from None  # Ray shows the user all of it, and the text comes last
            finally:
                if self._builds.get(uri) is build and build.task.done():
                    del self._builds[uri]
            if uri not in self._held:
                try:
                    self._held[uri] = _Held(environment)
                except BaseException:
                    environment.close()
                    raise
                logger.info("envmgr: %s is ready: %s", environment.name, environment.prefix)
        return 1.0  # more than a cache of 0 takes, so that delete_uri comes as soon as nobody uses it

    def modify_context(
        self, uris: list[str], runtime_env: dict[str, Any], context: RuntimeEnvContext, logger: logging.Logger = _log
    ) -> None:
        """Point a worker to the environment; `UnsuitableEnvironment` where it could not work there."""
        if runtime_env.get(TRIPWIRE_FIELD) == TRIPWIRE:
            del runtime_env[TRIPWIRE_FIELD]
        held = self._held[uris[0]]
        overlay = request.read(runtime_env[self.name]).overlay
        held.check(overlay, for_client=logger.name.startswith("runtime_env_ray_client_server_"))
        environment = held.environment
        context.py_executable = shlex.quote(str(environment.python))
        base = {**os.environ, **context.env_vars}
        changes = environment.environ_changes(base)
        changes["ENVMGR_RAY_PREFIX"] = str(environment.prefix)
        changes["PYTHONNOUSERSITE"] = base.get("PYTHONNOUSERSITE", "1")
        if overlay or (overlay is None and held.found.version("ray") is None):
            inherited = base.get("PYTHONPATH")
            changes["PYTHONPATH"] = f"{_OVERLAY}:{inherited}" if inherited else str(_OVERLAY)
            changes["ENVMGR_RAY_OVERLAY"] = f"{held.found.python_minor}:{Path(ray.__file__).parent.parent}"
        _apply(changes, context)

    def delete_uri(self, uri: str, logger: logging.Logger = _log) -> float:
        """Give the lease back: no job, task or actor uses the uri any more."""
        held = self._held.pop(uri, None)
        if held is not None:
            held.environment.close()
            logger.info("envmgr: %s is no longer used here", held.environment.name)
        return 1.0


class _Held:
    """A leased environment, and what it has."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.found = installed.of_prefix(environment.prefix)

    def check(self, overlay: bool | None, *, for_client: bool) -> None:
        """Raise `UnsuitableEnvironment` where a worker of this cluster could not run in it."""
        problems = requirements.ray_problems(
            self.found,
            python=f"{sys.version_info.major}.{sys.version_info.minor}",
            ray=ray.__version__,
            overlay=overlay,
            needs=_NEEDS,
            for_client=for_client,
        )
        if problems:
            raise UnsuitableEnvironment(
                f"{self.environment.name} cannot be used in this Ray cluster: {'; '.join(problems)}",
                problems=problems,
            )


class _Build:
    """One ensure that many setups wait for, each for its own time; it ends with the last of them."""

    def __init__(self, asked: request.Request) -> None:
        self.is_given_up = False
        self._is_taken = False
        self._loggers: list[logging.Logger] = []
        self._last = ""
        self.task = asyncio.ensure_future(aio.ensure(asked.spec, on_progress=self._tell))

    async def wait(self, logger: logging.Logger, timeout_s: float | None) -> Environment:
        self._loggers.append(logger)
        try:
            done, _ = await asyncio.wait([self.task], timeout=timeout_s)
            if not done:
                raise TimedOut(
                    f"not ready within {timeout_s:g} s{self._last}",
                    hint="timeout_s of runtime_env['envmgr'], or setup_timeout_seconds, allows more",
                    timeout_s=timeout_s,
                )
            environment = self.task.result()
            self._is_taken = True
        except (asyncio.CancelledError, TimedOut):
            if len(self._loggers) == 1 and not self._is_taken:
                await self._give_up()
            raise
        finally:
            self._loggers.remove(logger)
        return environment

    async def _give_up(self) -> None:
        """End what was begun; on return nothing of it runs, and nothing is leased."""
        self.is_given_up = True
        self.task.cancel()
        await asyncio.wait([self.task])
        if not self.task.cancelled() and self.task.exception() is None:
            self.task.result().close()

    def _tell(self, event: Event) -> None:
        if event.kind == "begin":
            self._last = f"; the last that was begun: {event}"
        if event.kind in {"begin", "end", "warning"}:
            for logger in {logger.name: logger for logger in tuple(self._loggers)}.values():  # one a job: its own log
                logger.log(logging.WARNING if event.kind == "warning" else logging.INFO, "envmgr: %s", event)


def _timeout_s(asked: request.Request, runtime_env: Mapping[str, Any]) -> float | None:
    if asked.timeout_s is not None:
        return asked.timeout_s
    limit_s = float((runtime_env.get("config") or {}).get("setup_timeout_seconds", _DEFAULT_SETUP_TIMEOUT_S))
    return None if limit_s <= 0 else limit_s * _FIRST_SAY


def _apply(changes: Mapping[str, str | None], context: RuntimeEnvContext) -> None:
    """Change a worker's variables: by Ray's own means, and by the shell that starts it where Ray would do it wrong."""
    for key, value in changes.items():
        if value is None:
            context.env_vars.pop(key, None)
            context.command_prefix += ["unset", key, "&&"]
        elif "$" in value:  # Ray would take it for a variable's name
            context.env_vars.pop(key, None)
            context.command_prefix += ["export", f"{key}={shlex.quote(value)}", "&&"]
        else:
            context.env_vars[key] = value
