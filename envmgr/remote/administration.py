"""The verbs of a cluster's administrator, asked of the daemon of a host of that cluster; see `envmgr.ports`."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import TypeVar, cast
from urllib.parse import quote

from envmgr import codec, names
from envmgr.errors import EnvironmentNotFound
from envmgr.names import Alias, EnvName
from envmgr.remote.connection import PATIENCE, Connection, Patience, load
from envmgr.wire import cluster as wire
from envmgr.wire import socket
from envmgr.wire.tree import Cluster

T = TypeVar("T")

LOOK_EVERY_S = 0.5
IDLE_FACTOR = 5.0
"""So much longer than a look takes is the pause behind it."""


class RemoteAdministration:
    """The cluster of the daemon at the socket `path`."""

    def __init__(self, path: str, *, patience: Patience = PATIENCE) -> None:
        self._path = path
        self._patience = patience

    def resolve(self, word: str) -> EnvName:
        """Return the name that a name or an alias of the cluster stands for."""
        if names.is_name(word):
            return EnvName(word)
        name = self.aliases().get(names.alias(word))
        if name is None:
            raise EnvironmentNotFound(
                f"the cluster has no alias {word!r}", hint="envmgr cluster alias list shows what is there"
            )
        return EnvName(name)

    # ---------------------------------------------------------------------------------------------------- environments

    def create(self, declaration: wire.Declaration) -> wire.DeclaredEnvironment:
        """Declare an environment, or change for whom it is declared."""
        spec = declaration.spec
        request = wire.DeclareRequest(
            spec=socket.SpecDocument(text=str(spec["source_text"]), includes=_includes(spec)),
            hosts=declaration.selector.hosts,
            labels=declaration.selector.labels,
            alias=declaration.alias,
            move_alias=declaration.move_alias,
            max_parallel=declaration.max_parallel,
            percent_parallel=declaration.percent_parallel,
        )
        return self._ask(wire.DeclaredEnvironment, "POST", "/environments", request)

    def remove(self, name: EnvName) -> wire.DeclaredEnvironment:
        """Unpublish an environment everywhere."""
        return self._ask(wire.DeclaredEnvironment, "DELETE", f"/environments/{name}")

    def relock(self, name: EnvName) -> wire.DeclaredEnvironment:
        """Have an environment solved again."""
        return self._ask(wire.DeclaredEnvironment, "POST", f"/environments/{name}/relock")

    def retry(self, name: EnvName, host: str | None = None) -> wire.DeclaredEnvironment:
        """Have what failed tried again at once, on one host or on all."""
        request = wire.RetryRequest(host=host)
        return self._ask(wire.DeclaredEnvironment, "POST", f"/environments/{name}/retry", request)

    def status(self) -> wire.ClusterStatus:
        """Return the cluster at one moment."""
        return self._ask(wire.ClusterStatus, "GET", "")

    def show(self, name: EnvName, *, waiter: str = "") -> wire.DeclaredEnvironment:
        """Return one declared environment, with a row for each of its hosts; `waiter`: see `RemoteWatching`."""
        query = f"?waiter={waiter}" if waiter else ""
        return self._ask(wire.DeclaredEnvironment, "GET", f"/environments/{name}{query}")

    def why(self, name: EnvName, host: str) -> wire.Row:
        """Return how one environment does on one host."""
        return self._ask(wire.Row, "GET", f"/environments/{name}/hosts/{_part(host)}")

    @contextlib.contextmanager
    def watching(self, name: EnvName, *, has_progress: bool = False) -> Iterator[RemoteWatching]:  # noqa: ARG002 - the daemon tells it anyway
        """Follow one environment for the length of a block."""
        yield RemoteWatching(self, name)

    # ----------------------------------------------------------------------------------------------------------- hosts

    def hosts(self) -> tuple[wire.HostInfo, ...]:
        """Return the hosts that are known."""
        return self._ask(wire.Hosts, "GET", "/hosts").hosts

    def heal(self) -> Cluster:
        """Have the hosts bring what drifted back in line."""
        return self._ask(Cluster, "POST", "/heal")

    def cordon(self, host: str, *, is_cordoned: bool) -> None:
        """Let a host begin nothing new, or begin again."""
        self._ask(wire.Hosts, "PUT" if is_cordoned else "DELETE", f"/hosts/{_part(host)}/cordon")

    def forget(self, host: str) -> None:
        """Wait for a host no longer that has gone for ever."""
        self._ask(wire.Hosts, "DELETE", f"/hosts/{_part(host)}")

    # ------------------------------------------------------------------------------------------- what the hosts share

    def aliases(self) -> dict[Alias, EnvName]:
        """Return alias → name."""
        found = self._ask(socket.Aliases, "GET", "/aliases").aliases
        return {Alias(alias): EnvName(name) for alias, name in found.items()}

    def set_alias(self, alias: Alias, name: EnvName, *, move: bool = False) -> None:
        """Let an alias stand for a declared environment."""
        self._ask(socket.Aliases, "PUT", f"/aliases/{alias}", socket.AliasRequest(environment=name, move=move))

    def remove_alias(self, alias: Alias) -> EnvName:
        """Drop an alias, and return what it stood for."""
        name = self.aliases().get(alias)
        self._ask(socket.Aliases, "DELETE", f"/aliases/{alias}")
        return name or EnvName(alias)

    def cluster(self) -> Cluster:
        """Return who the cluster is, and what all its hosts share."""
        return self._ask(Cluster, "GET", "/settings")

    def change_settings(
        self,
        changes: Mapping[str, object | None],
        classes: Mapping[str, Mapping[str, str] | None] | None = None,
        *,
        upgrade_format: bool = False,
    ) -> Cluster:
        """Change settings and machine classes."""
        request = wire.ClusterSettingsRequest(settings=changes, classes=classes or {}, upgrade_format=upgrade_format)
        return self._ask(Cluster, "POST", "/settings", request)

    def export(self) -> wire.Exported:
        """Return the whole intent."""
        return self._ask(wire.Exported, "GET", "/intent")

    def import_(self, document: wire.Exported, *, replace: bool = False) -> Cluster:
        """Put an exported intent into the tree."""
        request = wire.ImportRequest(document=codec.dump(document), replace=replace)
        return self._ask(Cluster, "PUT", "/intent", request)

    # -------------------------------------------------------------------------------------------------------- the wire

    def _ask(self, cls: type[T], method: str, target: str, request: object = None) -> T:
        with Connection(self._path, patience=self._patience) as connection:
            return load(self._path, cls, connection.ask(method, f"{socket.PREFIX}/cluster{target}", request))


class RemoteWatching:
    """One declared environment, asked for again and again; looking takes at most a small part of the time.

    The daemon knows by a word of ours that it is the same one who looks, and reads what is new since the last look.
    """

    def __init__(self, administration: RemoteAdministration, name: EnvName) -> None:
        self._administration = administration
        self._name = name
        self._waiter = uuid.uuid4().hex
        self._took_s = 0.0

    def show(self) -> wire.DeclaredEnvironment:
        """Return it as it is now."""
        began = time.monotonic()
        try:
            return self._administration.show(self._name, waiter=self._waiter)
        finally:
            self._took_s = time.monotonic() - began

    def wait(self, timeout_s: float) -> None:
        """Wait some time that is long beside what a look took, but at most `timeout_s`."""
        time.sleep(min(timeout_s, max(LOOK_EVERY_S, IDLE_FACTOR * self._took_s)))


def _includes(spec: Mapping[str, object]) -> dict[str, str]:
    return {str(word): str(text) for word, text in cast("tuple[tuple[str, str], ...]", spec["includes"])}


def _part(word: str) -> str:
    return quote(word, safe="")
