"""The verbs of a cluster's administrator, asked of the daemon of a host of that cluster; see `envmgr.ports`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar, cast
from urllib.parse import quote

from envmgr import codec, names
from envmgr.errors import EnvironmentNotFound
from envmgr.names import EnvName
from envmgr.remote.connection import PATIENCE, Connection, Patience, load
from envmgr.wire import cluster as wire
from envmgr.wire import socket

if TYPE_CHECKING:
    from envmgr.names import Alias

T = TypeVar("T")


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

    def show(self, name: EnvName) -> wire.DeclaredEnvironment:
        """Return one declared environment, with a row for each of its hosts."""
        return self._ask(wire.DeclaredEnvironment, "GET", f"/environments/{name}")

    def why(self, name: EnvName, host: str) -> wire.Row:
        """Return how one environment does on one host."""
        return self._ask(wire.Row, "GET", f"/environments/{name}/hosts/{_part(host)}")

    # ----------------------------------------------------------------------------------------------------------- hosts

    def hosts(self) -> tuple[wire.HostInfo, ...]:
        """Return the hosts that are known."""
        return self._ask(wire.Hosts, "GET", "/hosts").hosts

    def heal(self) -> None:
        """Have the hosts bring what drifted back in line."""
        self._ask(wire.Cluster, "POST", "/heal")

    def cordon(self, host: str, *, is_cordoned: bool) -> None:
        """Let a host begin nothing new, or begin again."""
        self._ask(wire.Hosts, "PUT" if is_cordoned else "DELETE", f"/hosts/{_part(host)}/cordon")

    def forget(self, host: str) -> None:
        """Wait for a host no longer that has gone for ever."""
        self._ask(wire.Hosts, "DELETE", f"/hosts/{_part(host)}")

    # ------------------------------------------------------------------------------------------- what the hosts share

    def aliases(self) -> dict[str, str]:
        """Return alias → name."""
        return dict(self._ask(socket.Aliases, "GET", "/aliases").aliases)

    def set_alias(self, alias: Alias, name: EnvName, *, move: bool) -> None:
        """Let an alias stand for a declared environment."""
        self._ask(socket.Aliases, "PUT", f"/aliases/{alias}", socket.AliasRequest(environment=name, move=move))

    def remove_alias(self, alias: Alias) -> None:
        """Drop an alias."""
        self._ask(socket.Aliases, "DELETE", f"/aliases/{alias}")

    def cluster(self) -> wire.Cluster:
        """Return who the cluster is, and what all its hosts share."""
        return self._ask(wire.Cluster, "GET", "/settings")

    def change_settings(
        self,
        changes: Mapping[str, object | None],
        classes: Mapping[str, Mapping[str, str]],
        *,
        upgrade_format: bool = False,
    ) -> wire.Cluster:
        """Change settings and machine classes."""
        request = wire.ClusterSettingsRequest(settings=changes, classes=classes, upgrade_format=upgrade_format)
        return self._ask(wire.Cluster, "POST", "/settings", request)

    def export(self) -> wire.Exported:
        """Return the whole intent."""
        return self._ask(wire.Exported, "GET", "/intent")

    def import_(self, document: wire.Exported, *, replace: bool) -> None:
        """Put an exported intent into the tree."""
        request = wire.ImportRequest(document=codec.dump(document), replace=replace)
        self._ask(wire.ClusterStatus, "PUT", "/intent", request)

    # -------------------------------------------------------------------------------------------------------- the wire

    def _ask(self, cls: type[T], method: str, target: str, request: object = None) -> T:
        with Connection(self._path, patience=self._patience) as connection:
            return load(self._path, cls, connection.ask(method, f"{socket.PREFIX}/cluster{target}", request))


def _includes(spec: Mapping[str, object]) -> dict[str, str]:
    return {str(word): str(text) for word, text in cast("tuple[tuple[str, str], ...]", spec["includes"])}


def _part(word: str) -> str:
    return quote(word, safe="")
