"""The routes below ``/v1/cluster`` (`envmgr.wire.cluster` lists them): administrators of the cluster, over any daemon.

They are there on every host; on one that is in no cluster they say so.
"""

from __future__ import annotations

from typing import Annotated, Any

import fastapi
from fastapi import Request
from starlette.responses import Response

from envmgr.daemon import openapi
from envmgr.daemon.calls import Calls, Route, add, caller_of
from envmgr.daemon.cluster_service import ClusterService
from envmgr.daemon.requests import BODY_BYTES, Reader
from envmgr.wire import cluster as wire
from envmgr.wire import socket
from envmgr.wire.tree import Cluster

DECLARE = Reader(wire.DeclareRequest)
RETRY = Reader(wire.RetryRequest)
ALIAS = Reader(socket.AliasRequest)
SETTINGS = Reader(wire.ClusterSettingsRequest)
IMPORT = Reader(wire.ImportRequest)
IMPORT_BYTES = 256 << 20
Waiter = Annotated[str, fastapi.Query(max_length=64)]
READERS: tuple[Reader[Any], ...] = (DECLARE, RETRY, SETTINGS, IMPORT)


class ClusterRoutes:
    """All of them; `add_to` gives them to the application."""

    def __init__(self, service: ClusterService, calls: Calls) -> None:
        self._service = service
        self._calls = calls

    # ---------------------------------------------------------------------------------------------------- environments

    async def cluster_status(self, request: Request) -> Response:
        """Tell of the cluster at one moment."""
        return await self._calls.shown(request, self._service.status)

    async def cluster_create(self, request: Request) -> Response:
        """Declare an environment; its hosts make it from then on."""
        asked = await DECLARE.read(request)
        return await self._calls.changed(request, self._service.create, asked)

    async def cluster_show(self, request: Request, environment: str, waiter: Waiter = "") -> Response:
        """Show one declared environment, with a row for each of its hosts.

        Who asks again and again until it is made gives the same `waiter` each time, some word that nobody else gives.
        """
        return await self._calls.shown(request, self._service.show, environment, waiter)

    async def cluster_remove(self, request: Request, environment: str) -> Response:
        """Unpublish an environment on every host."""
        return await self._calls.changed(request, self._service.remove, environment)

    async def cluster_relock(self, request: Request, environment: str) -> Response:
        """Have an environment solved again, once for all its hosts."""
        return await self._calls.changed(request, self._service.relock, environment)

    async def cluster_retry(self, request: Request, environment: str) -> Response:
        """Have what failed tried again at once."""
        asked = await RETRY.read(request)
        return await self._calls.changed(request, self._service.retry, environment, asked)

    async def cluster_why(self, request: Request, environment: str, host: str) -> Response:
        """Tell how an environment does on one host."""
        return await self._calls.shown(request, self._service.why, environment, host)

    # ----------------------------------------------------------------------------------------------------------- hosts

    async def cluster_hosts(self, request: Request) -> Response:
        """List the hosts that are known."""
        return await self._calls.shown(request, self._service.hosts)

    async def cluster_forget(self, request: Request, host: str) -> Response:
        """Wait for a host no longer that has gone for ever."""
        return await self._calls.changed(request, self._service.forget, host)

    async def cluster_cordon(self, request: Request, host: str) -> Response:
        """Let a host begin nothing new."""
        return await self._calls.changed(request, self._service.cordon, host, is_cordoned=True)

    async def cluster_uncordon(self, request: Request, host: str) -> Response:
        """Let a host begin work again."""
        return await self._calls.changed(request, self._service.cordon, host, is_cordoned=False)

    async def cluster_heal(self, request: Request) -> Response:
        """Have the hosts bring what drifted back in line."""
        return await self._calls.changed(request, self._service.heal)

    # ------------------------------------------------------------------------------------------- what the hosts share

    async def cluster_aliases(self, request: Request) -> Response:
        """List the aliases of the cluster."""
        return await self._calls.shown(request, self._service.aliases)

    async def cluster_set_alias(self, request: Request, alias: str) -> Response:
        """Let an alias of the cluster stand for a declared environment."""
        asked = await ALIAS.read(request)
        return await self._calls.changed(request, self._service.set_alias, alias, asked)

    async def cluster_remove_alias(self, request: Request, alias: str) -> Response:
        """Drop an alias of the cluster."""
        return await self._calls.changed(request, self._service.remove_alias, alias)

    async def cluster_settings(self, request: Request) -> Response:
        """Show who the cluster is, its settings and machine classes."""
        return await self._calls.shown(request, self._service.cluster)

    async def cluster_change_settings(self, request: Request) -> Response:
        """Change the settings and machine classes that all hosts share."""
        asked = await SETTINGS.read(request)
        return await self._calls.changed(request, self._service.change_settings, asked)

    async def cluster_export(self, request: Request) -> Response:
        """Return the whole intent as one document."""
        return await self._calls.shown(request, self._service.export)

    async def cluster_import(self, request: Request) -> Response:
        """Put an exported intent into the cluster."""
        # It has the lockfiles of the whole cluster. Who may not import it has no more memory here than for the rest.
        most_bytes = IMPORT_BYTES if caller_of(request).role == "admin" else BODY_BYTES
        asked = await IMPORT.read(request, most_bytes=most_bytes)
        return await self._calls.changed(request, self._service.import_, asked)

    def add_to(self, app: fastapi.FastAPI) -> None:
        """Give the application its routes."""
        one, host = "/environments/{environment}", "/hosts/{host}"
        found, body, change = openapi.FOUND, openapi.BODY, openapi.CHANGE
        declared: Any = {200: wire.DeclaredEnvironment}
        hosts: Any = {200: wire.Hosts}
        aliases: Any = {200: socket.Aliases}
        routes: tuple[Route, ...] = (
            ("GET", "", self.cluster_status, {200: wire.ClusterStatus}, None, (change,)),
            ("POST", "/environments", self.cluster_create, declared, DECLARE, (change, body)),
            ("GET", one, self.cluster_show, declared, None, (change, found)),
            ("DELETE", one, self.cluster_remove, declared, None, (change, found)),
            ("POST", f"{one}/relock", self.cluster_relock, declared, None, (change, found)),
            ("POST", f"{one}/retry", self.cluster_retry, declared, RETRY, (change, found, body)),
            ("GET", f"{one}/hosts/{{host}}", self.cluster_why, {200: wire.Row}, None, (change, found)),
            ("GET", "/hosts", self.cluster_hosts, hosts, None, (change,)),
            ("DELETE", host, self.cluster_forget, hosts, None, (change, found)),
            ("PUT", f"{host}/cordon", self.cluster_cordon, hosts, None, (change, found)),
            ("DELETE", f"{host}/cordon", self.cluster_uncordon, hosts, None, (change, found)),
            ("POST", "/heal", self.cluster_heal, {200: Cluster}, None, (change,)),
            ("GET", "/aliases", self.cluster_aliases, aliases, None, (change,)),
            ("PUT", "/aliases/{alias}", self.cluster_set_alias, aliases, ALIAS, (change, found, body)),
            ("DELETE", "/aliases/{alias}", self.cluster_remove_alias, aliases, None, (change, found)),
            ("GET", "/settings", self.cluster_settings, {200: Cluster}, None, (change,)),
            ("POST", "/settings", self.cluster_change_settings, {200: Cluster}, SETTINGS, (change, body)),
            ("GET", "/intent", self.cluster_export, {200: wire.Exported}, None, (change,)),
            ("PUT", "/intent", self.cluster_import, {200: Cluster}, IMPORT, (change, body)),
        )
        add(app, f"{socket.PREFIX}/cluster", routes)
