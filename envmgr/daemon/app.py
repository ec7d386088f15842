"""The application: who asks is found out, the routes answer, and whatever goes wrong has the one shape of an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastapi
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from envmgr.daemon import cluster_routes, openapi, responses
from envmgr.daemon.calls import CALLER
from envmgr.daemon.cluster_routes import ClusterRoutes
from envmgr.daemon.peers import Callers
from envmgr.daemon.protocol import connection_of
from envmgr.daemon.routes import READERS, Routes
from envmgr.daemon.tokens import Tokens
from envmgr.daemon.workers import Workers
from envmgr.errors import EnvmgrError, PermissionRefused, Unauthenticated, UsageError
from envmgr.model import Caller
from envmgr.wire.socket import PREFIX

Seen = Callable[[str, str, int], None]
"""Hears of each answered request: method, the route's template, status."""

_OPEN_TO_ALL = frozenset({f"{PREFIX}/health/live", f"{PREFIX}/health/ready"})
_NOBODY = Caller(user="", role="use")


def application(routes: Routes, cluster: ClusterRoutes) -> fastapi.FastAPI:
    """Return the application of these routes; `Gate` stands before it."""
    app = fastapi.FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    routes.add_to(app)
    cluster.add_to(app)
    document: list[bytes] = []

    def made() -> dict[str, Any]:
        return openapi.document(app, (*READERS, *cluster_routes.READERS))

    app.openapi = made  # type: ignore[method-assign]  # FastAPI's own way to extend the document

    async def document_itself() -> Response:
        if not document:
            document.append(responses.encode(app.openapi()))
        return Response(document[0], media_type=responses.JSON_TYPE)

    app.add_api_route("/openapi.json", document_itself, methods=["GET"], include_in_schema=False)
    app.add_exception_handler(EnvmgrError, _refuse)
    app.add_exception_handler(HTTPException, _refuse_http)
    app.add_exception_handler(RequestValidationError, _refuse_parameters)
    app.add_exception_handler(Exception, _refuse)
    return app


class Gate:
    """Finds out who asks before the application is asked, and lets no exception through to the server."""

    def __init__(self, app: ASGIApp, *, callers: Callers, tokens: Tokens | None, workers: Workers, seen: Seen) -> None:
        self._app = app
        self._callers = callers
        self._tokens = tokens
        self._workers = workers
        self._seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            try:
                scope["state"][CALLER] = await self._caller(scope)
            except (EnvmgrError, OSError) as error:
                await responses.refusal(error)(scope, receive, noting)
                return
            await self._app(scope, receive, noting)
        except Exception as error:  # noqa: BLE001 - the application has answered and said it in the log, or could not
            if not status:
                await responses.refusal(error)(scope, receive, noting)
        finally:
            connection_of(scope).end_large()
            route = scope.get("route")
            self._seen(scope["method"], getattr(route, "path", ""), status)

    async def _caller(self, scope: Scope) -> Caller:
        peer = connection_of(scope).peer
        if peer is not None:
            found = self._callers.known(peer)
            if found is None:
                found = await self._workers.run(peer.uid, self._callers.look_up, peer)
            if isinstance(found, PermissionRefused):
                raise found
            return found
        if scope["path"] in _OPEN_TO_ALL:
            return _NOBODY
        values = [value for key, value in scope["headers"] if key == b"authorization"]
        header = values[0].decode("latin-1") if len(values) == 1 else None
        by_token = None if self._tokens is None else self._tokens.caller(header)
        if by_token is None:
            raise Unauthenticated(
                "the token is missing or wrong",
                hint="send the header `Authorization: Bearer TOKEN`; setting tokens_file",
            )
        return by_token


async def _refuse(_request: Request, error: Exception) -> Response:
    return responses.refusal(error)


async def _refuse_http(request: Request, error: Exception) -> Response:
    """Answer what the framework refuses: no such route, or not with this method."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = error.headers if isinstance(error, HTTPException) else None
    if status == 405:  # the framework names the methods of one route of this path only
        known = {
            method
            for route in request.app.routes
            if isinstance(route, Route) and route.matches(request.scope)[0] != Match.NONE
            for method in route.methods or ()
        }
        headers = {"Allow": ", ".join(sorted(known))}
    words = {404: "there is no such route", 405: f"this route does not know the method {request.method[:20]}"}
    found = UsageError(words.get(status, "the request was refused"), hint="GET /openapi.json lists all routes")
    return responses.refusal(responses.Refusal(status, found), headers)


async def _refuse_parameters(_request: Request, error: Exception) -> Response:
    problems = []
    if isinstance(error, RequestValidationError):
        problems = [{"where": ".".join(map(str, one["loc"])), "message": one["msg"]} for one in error.errors()]
    text = "; ".join(f"{problem['where']}: {problem['message']}" for problem in problems)
    return responses.refusal(
        responses.Refusal(422, UsageError(f"the parameters do not fit: {text}", problems=problems))
    )
