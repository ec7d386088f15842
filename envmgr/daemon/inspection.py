"""What anybody may ask of the daemon: what is there, what is made, a document's name. Nothing is changed."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from envmgr import names, ready
from envmgr.daemon import answers, documents
from envmgr.errors import Corrupt, EnvironmentNotFound
from envmgr.manager.context import free_space
from envmgr.manager.manager import Manager
from envmgr.names import BuildId, EnvName
from envmgr.operations import Flight, Operations
from envmgr.store import opening, publication, records, sweep
from envmgr.version import __version__
from envmgr.wire import socket as wire

if TYPE_CHECKING:
    from envmgr.model import Caller, EnvironmentInfo, Spec
    from envmgr.settings import Settings


@dataclass(frozen=True, slots=True)
class Managers:
    """One store under the settings, and without the limits that do not bind admins of a service."""

    use: Manager
    admin: Manager


def managers(manager: Manager) -> Managers:
    """Return the managers of one store for the two roles; the owner of a personal store keeps to his own settings."""
    if manager.context.settings.mode == "personal":
        return Managers(manager, manager)
    unlimited = replace(
        manager.context.settings, allowed_channels=None, allowed_indexes=(), allow_git_urls=True, allow_sdists=None
    )
    return Managers(manager, Manager(replace(manager.context, settings=unlimited)))


class Inspection:
    """The looking half of `envmgr.daemon.service.Service`; the caller comes first, and all of it may block."""

    def __init__(self, manager: Manager, operations: Operations) -> None:
        self._managers = managers(manager)
        self._layout = manager.context.layout
        self._root = manager.context.root
        self._operations = operations
        self._started_at = manager.context.clock.time()
        self.membership: Callable[[], wire.Membership | None] = _no_member
        """How this host stands to its cluster."""
        self.declared: Callable[[], Collection[EnvName]] = tuple
        """The environments that the cluster wants here."""

    @property
    def manager(self) -> Manager:
        """The manager under the settings in force."""
        return self._managers.use

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._managers.use.context.settings

    def name(self, caller: Caller, request: wire.NameRequest) -> wire.Named:  # noqa: ARG002 - all may
        """Return what a document alone tells."""
        return answers.named(documents.parse(request.spec))

    def environments(self, caller: Caller) -> wire.Environments:  # noqa: ARG002 - all may
        """Return every environment that is there, is made, or failed."""
        found = self._describe(self._managers.use.list())
        return wire.Environments(root=self._root, environments=found)

    def environment(self, caller: Caller, word: str) -> wire.Environment:  # noqa: ARG002 - all may
        """Return one environment."""
        return self._describe((self._managers.use.show(self._name(word)),))[0]

    def _describe(self, infos: tuple[EnvironmentInfo, ...]) -> tuple[wire.Environment, ...]:
        builds: dict[str, list[BuildId]] = {}
        for build in sweep.all_builds(self._layout):
            builds.setdefault(_stem(build), []).append(build)
        # A build's id begins with the first digits of its name.
        # A lease that is being handed over is the asker's, not the daemon's.
        infos = tuple(
            replace(info, used_by=tuple(it for it in info.used_by if it.pid != os.getpid())) for info in infos
        )
        return tuple(
            answers.environment(info, tuple(builds.get(_stem(names.build_id(info.name[len("env-") :], 0)), ())))
            for info in infos
        )

    def log(self, caller: Caller, word: str) -> wire.Text:  # noqa: ARG002 - all may
        """Return the log of the published build, or of the last failure."""
        name = self._name(word)
        return wire.Text(name=name, text=self._managers.use.log(name))

    def lockfile(self, caller: Caller, word: str) -> wire.Text:  # noqa: ARG002 - all may
        """Return the lockfile that the published build was made from, else the one in force."""
        name = self._name(word)
        build = publication.current(self._layout, name)
        if build is not None:
            try:
                return wire.Text(name=name, text=self._layout.build(build).lockfile.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError) as error:
                raise Corrupt(f"the lockfile of {name} cannot be read: {error}", hint="envmgr repair") from error
        text = records.read_lockfile(self._layout, name, self.settings.machine_class)
        if text is None:
            raise EnvironmentNotFound(f"there is no lockfile of {name}", hint="envmgr lock FILE finds one")
        return wire.Text(name=name, text=text)

    def spec(self, caller: Caller, word: str) -> wire.Text:  # noqa: ARG002 - all may
        """Return the text of the spec that the name was made from."""
        name = self._name(word)
        return wire.Text(name=name, text=self._stored_spec(name).source_text)

    def status(self, caller: Caller) -> wire.Status:
        """Return the daemon and its store at a glance; costs a look at every process."""
        infos = self._managers.use.list()
        return wire.Status(
            version=__version__,
            pid=os.getpid(),
            root=self._root,
            host=self._managers.use.context.host,
            mode=opening.owner(self._layout)[1],
            started_at=self._started_at,
            is_draining=self._operations.is_draining,
            role=caller.role,
            environments=sum(info.build_id is not None for info in infos),
            leases=sum(len(info.used_by) for info in infos),
            running=self._operations.running,
            queued=self._operations.queued,
            free_bytes=free_space(self._layout.root)[0],
            size_bytes=sum(info.size_bytes or 0 for info in infos),
            cluster=self.membership(),
        )

    def aliases(self, caller: Caller) -> wire.Aliases:  # noqa: ARG002 - all may
        """Return every alias."""
        return wire.Aliases(aliases=dict(self._managers.use.aliases().items()))

    def operations(self, caller: Caller) -> wire.Operations:  # noqa: ARG002 - all may
        """Return every operation that is kept, without the text of a lockfile."""
        return wire.Operations(operations=tuple(_short(flight.snapshot()) for flight in self._operations.all()))

    def operation(self, caller: Caller, id: str) -> Flight:  # noqa: A002, ARG002 - its id; all may
        """Return one operation."""
        flight = self._operations.find(id)
        if flight is None:
            raise EnvironmentNotFound(
                "there is no operation of that id", hint="one that ended is kept for some minutes; ask again for it"
            )
        return flight

    def _name(self, word: str) -> EnvName:
        """Return the name that a name or an alias stands for."""
        name = ready.resolve_alias(self._root, word)
        if name is None:
            raise EnvironmentNotFound(
                f"there is no environment {word!r} in {self._root}", hint="envmgr list shows what is there"
            )
        return name

    def _stored_spec(self, name: EnvName) -> Spec:
        spec = records.read_spec(self._layout, name)
        if spec is None:
            raise EnvironmentNotFound(f"{name} is not in {self._root}", hint="create it from its spec")
        return spec


def _no_member() -> None:
    """Be the membership of a host that is in no cluster."""


def _stem(build: BuildId) -> str:
    return build.partition("-")[0]


def _short(operation: wire.Operation) -> wire.Operation:
    if isinstance(operation.result, wire.LockResult):
        return replace(operation, result=replace(operation.result, text=""))
    return operation
