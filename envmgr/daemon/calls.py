"""From a route to a call of the service in a thread, in the caller's name; what all groups of routes share.

While the daemon drains, what would change anything is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import fastapi
from fastapi import Request
from starlette.responses import Response

from envmgr.daemon import openapi, responses
from envmgr.daemon.requests import Reader
from envmgr.daemon.workers import Workers
from envmgr.errors import DaemonUnavailable
from envmgr.model import Caller

P = ParamSpec("P")
T = TypeVar("T")
Endpoint = Callable[..., Any]
Route = tuple[str, str, Endpoint, Mapping[int, Any], Reader[Any] | None, tuple[Mapping[int, str], ...]]
"""Method, path, endpoint, good answers by status, what reads the body, and refusals beside `openapi.ALWAYS`."""

CALLER = "caller"
"""Where a request's scope has who asks: in ``scope["state"]``."""


class Calls:
    """Asks services in threads."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self.is_draining = False

    async def call(self, request: Request, call: Callable[..., T], *args: object, **kwargs: object) -> T:
        """Ask the service in a thread, in the caller's name."""
        caller = caller_of(request)
        return await self._workers.run(caller.user, call, caller, *args, **kwargs)

    async def shown(self, request: Request, call: Callable[..., object], *args: object, **kwargs: object) -> Response:
        """Ask the service, and answer with what it says."""
        return await self.call(request, _answered(call), *args, **kwargs)

    async def changed(self, request: Request, call: Callable[..., object], *args: object, **kwargs: object) -> Response:
        """Do the same for what is not begun any more while the daemon drains."""
        return await self.change(request, _answered(call), *args, **kwargs)

    async def change(self, request: Request, call: Callable[..., T], *args: object, **kwargs: object) -> T:
        """Ask the service for what is not begun any more while the daemon drains."""
        if self.is_draining:
            raise draining()
        return await self.call(request, call, *args, **kwargs)


def add(app: fastapi.FastAPI, prefix: str, routes: Sequence[Route]) -> None:
    """Give the application these routes, documented."""
    for method, path, endpoint, good, reader, refusals in routes:
        app.add_api_route(
            f"{prefix}{path}",
            endpoint,
            methods=[method],
            operation_id=endpoint.__name__,
            status_code=next(iter(good)),
            response_model=None,
            response_class=Response,
            responses=openapi.answers(good, refusals),
            openapi_extra=None if reader is None else openapi.body(reader),
        )


def caller_of(request: Request) -> Caller:
    """Return who asks."""
    caller: Caller = request.scope["state"][CALLER]
    return caller


def draining() -> DaemonUnavailable:
    """Return the error for what is not begun any more."""
    return DaemonUnavailable("the daemon is stopping and begins nothing new", hint="try again when it is back")


def _answered(call: Callable[..., object]) -> Callable[..., Response]:
    """Let the answer be made of what the service says in the same thread: a log may be long."""

    def ask(*args: object, **kwargs: object) -> Response:
        return responses.data(call(*args, **kwargs))

    return ask
