"""The routes of `envmgr.wire.socket`: from a request to a call of the service, and back to an answer.

What may block runs in `envmgr.daemon.workers`. An environment that is ready and was asked for by its name, or by a text
that was seen before, is answered on the event loop alone, so that no build and no crowd delays it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastapi
from fastapi import Request
from starlette.responses import Response

from envmgr import ready
from envmgr.daemon import openapi, responses, streams
from envmgr.daemon.calls import Calls, Route, add, caller_of, draining
from envmgr.daemon.protocol import connection_of
from envmgr.daemon.requests import Reader
from envmgr.daemon.service import Service
from envmgr.daemon.workers import Workers
from envmgr.operations import Flight
from envmgr.wire import socket as wire

NAME = Reader(wire.NameRequest)
ENSURE = Reader(wire.EnsureRequest)
LOCK = Reader(wire.LockRequest)
RELOCK = Reader(wire.RelockRequest)
ALIAS = Reader(wire.AliasRequest)
COLLECT = Reader(wire.CollectRequest)
READERS: tuple[Reader[Any], ...] = (NAME, ENSURE, LOCK, RELOCK, ALIAS, COLLECT)


class Routes(Calls):
    """All routes of one daemon; `add_to` gives them to the application."""

    def __init__(self, service: Service, workers: Workers, *, metrics: Callable[[], bytes] | None = None) -> None:
        super().__init__(workers)
        self._service = service
        self._metrics = metrics

    # ---------------------------------------------------------------------------------------------------- environments

    async def name(self, request: Request) -> Response:
        """Tell which name a spec has."""
        asked = await NAME.read(request)
        return await self.shown(request, self._service.name, asked)

    async def ensure(self, request: Request) -> Response:
        """Have an environment ready: at once (200), or by an operation (202)."""
        asked = await ENSURE.read(request)
        found: ready.Lease | Flight | None = self._service.look(caller_of(request), asked)
        if found is None:
            found = await self.change(request, self._service.ensure, asked)
        if isinstance(found, ready.Lease):
            connection_of(request.scope).hold(found)
            is_ready = wire.Ready(name=found.name, build_id=found.build_id, path=found.path, prefix=found.prefix)
            return responses.data(wire.Ensured(ready=is_ready, operation=None))
        return responses.data(wire.Ensured(ready=None, operation=found.snapshot()), 202)

    async def environments(self, request: Request) -> Response:
        """List all environments."""
        return await self.shown(request, self._service.environments)

    async def environment(self, request: Request, environment: str) -> Response:
        """Show one environment."""
        return await self.shown(request, self._service.environment, environment)

    async def remove(
        self, request: Request, environment: str, mode: wire.RemoveMode = "refuse", forget: bool = False
    ) -> Response:
        """Remove an environment, also where an alias names it; the alias stays (``/aliases`` drops aliases)."""
        return await self.changed(request, self._service.remove, environment, mode, forget=forget)

    async def log(self, request: Request, environment: str) -> Response:
        """Return the log of the build, or of the last failure."""
        return await self.shown(request, self._service.log, environment)

    async def lockfile(self, request: Request, environment: str) -> Response:
        """Return the lockfile in force."""
        return await self.shown(request, self._service.lockfile, environment)

    async def spec(self, request: Request, environment: str) -> Response:
        """Return the spec."""
        return await self.shown(request, self._service.spec, environment)

    async def relock(self, request: Request, environment: str) -> Response:
        """Solve again, build and republish."""
        asked = await RELOCK.read(request)
        return _accepted(await self.change(request, self._service.relock, environment, asked))

    async def repair(self, request: Request, environment: str) -> Response:
        """Build the same packages again, checked byte by byte."""
        return _accepted(await self.change(request, self._service.repair, environment))

    async def pin(self, request: Request, environment: str) -> Response:
        """Keep an environment from being collected."""
        return await self.changed(request, self._service.set_pinned, environment, is_pinned=True)

    async def unpin(self, request: Request, environment: str) -> Response:
        """Let an environment be collected again."""
        return await self.changed(request, self._service.set_pinned, environment, is_pinned=False)

    async def lock(self, request: Request) -> Response:
        """Find the lockfile of a spec; build nothing."""
        asked = await LOCK.read(request)
        return _accepted(await self.change(request, self._service.lock, asked))

    async def collect(self, request: Request) -> Response:
        """Free what is not needed."""
        asked = await COLLECT.read(request)
        return _accepted(await self.change(request, self._service.collect, asked))

    # --------------------------------------------------------------------------------------------------------- aliases

    async def aliases(self, request: Request) -> Response:
        """List all aliases."""
        return await self.shown(request, self._service.aliases)

    async def set_alias(self, request: Request, alias: str) -> Response:
        """Let an alias stand for an environment."""
        asked = await ALIAS.read(request)
        return await self.changed(request, self._service.set_alias, alias, asked)

    async def remove_alias(self, request: Request, alias: str) -> Response:
        """Drop an alias; the environment stays."""
        return await self.changed(request, self._service.remove_alias, alias)

    # ------------------------------------------------------------------------------------------------------ operations

    async def operations(self, request: Request) -> Response:
        """List the operations, the newest last."""
        return await self.shown(request, self._service.operations)

    async def operation(self, request: Request, operation: str) -> Response:
        """Show one operation."""
        return responses.data((await self.call(request, self._service.operation, operation)).snapshot())

    async def cancel(self, request: Request, operation: str) -> Response:
        """Tell an operation to stop; its end comes with its events."""
        return responses.data((await self.call(request, self._service.cancel, operation)).snapshot())

    async def events(self, request: Request, operation: str) -> Response:
        """Follow an operation by server-sent events, behind the header `Last-Event-ID`."""
        after = streams.first_wanted(request.headers.get("last-event-id"))
        flight = await self.call(request, self._service.operation, operation)
        return streams.EventStream(flight, connection_of(request.scope), after)

    # ------------------------------------------------------------------------------------------------------ the daemon

    async def status(self, request: Request) -> Response:
        """Tell of the daemon and its store at a glance."""
        return await self.shown(request, self._service.status)

    async def live(self) -> Response:
        """Tell that the daemon lives."""
        return responses.data(wire.Health(status="draining" if self.is_draining else "ok"))

    async def ready(self) -> Response:
        """Tell that the daemon takes work."""
        if self.is_draining:
            raise draining()
        return responses.data(wire.Health(status="ok"))

    async def metrics(self, request: Request) -> Response:
        """Return what Prometheus asks for."""
        if self._metrics is None:
            return Response(b"", media_type="text/plain")
        text = await self._workers.run(caller_of(request).user, self._metrics)
        return Response(text, media_type="text/plain; version=0.0.4")

    def add_to(self, app: fastapi.FastAPI) -> None:
        """Give the application its routes."""
        one, op = "/environments/{environment}", "/operations/{operation}"
        found, body, change = openapi.FOUND, openapi.BODY, openapi.CHANGE
        routes: tuple[Route, ...] = (
            ("POST", "/names", self.name, {200: wire.Named}, NAME, (body,)),
            ("POST", "/environments", self.ensure, {200: wire.Ensured, 202: wire.Ensured}, ENSURE, (change, body)),
            ("GET", "/environments", self.environments, {200: wire.Environments}, None, ()),
            ("GET", one, self.environment, {200: wire.Environment}, None, (found,)),
            ("DELETE", one, self.remove, {200: wire.Removed}, None, (change, found)),
            ("GET", f"{one}/log", self.log, {200: wire.Text}, None, (found,)),
            ("GET", f"{one}/lockfile", self.lockfile, {200: wire.Text}, None, (found,)),
            ("GET", f"{one}/spec", self.spec, {200: wire.Text}, None, (found,)),
            ("POST", f"{one}/relock", self.relock, {202: wire.Accepted}, RELOCK, (change, found, body)),
            ("POST", f"{one}/repair", self.repair, {202: wire.Accepted}, None, (change, found)),
            ("PUT", f"{one}/pin", self.pin, {200: wire.Pinned}, None, (change, found)),
            ("DELETE", f"{one}/pin", self.unpin, {200: wire.Pinned}, None, (change, found)),
            ("POST", "/lockfiles", self.lock, {202: wire.Accepted}, LOCK, (change, body)),
            ("GET", "/aliases", self.aliases, {200: wire.Aliases}, None, ()),
            ("PUT", "/aliases/{alias}", self.set_alias, {200: wire.Aliases}, ALIAS, (change, found, body)),
            ("DELETE", "/aliases/{alias}", self.remove_alias, {200: wire.Aliases}, None, (change, found)),
            ("POST", "/collections", self.collect, {202: wire.Accepted}, COLLECT, (change, body)),
            ("GET", "/operations", self.operations, {200: wire.Operations}, None, ()),
            ("GET", op, self.operation, {200: wire.Operation}, None, (found,)),
            ("DELETE", op, self.cancel, {200: wire.Operation}, None, (found,)),
            ("GET", f"{op}/events", self.events, {200: streams.CONTENT_TYPE}, None, (found,)),
            ("GET", "/status", self.status, {200: wire.Status}, None, ()),
            ("GET", "/health/live", self.live, {200: wire.Health}, None, ()),
            ("GET", "/health/ready", self.ready, {200: wire.Health}, None, ()),
        )
        add(app, wire.PREFIX, routes)
        add(app, "", (("GET", "/metrics", self.metrics, {200: "text/plain"}, None, ()),))


def _accepted(flight: Flight) -> Response:
    return responses.data(wire.Accepted(operation=flight.snapshot()), 202)
