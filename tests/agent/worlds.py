"""One agent on a tree in memory, with a clock and hands that a test moves."""

# ruff: noqa: ARG002 - the ports' parameters, which a fake has no use for

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from fakes.clock import FakeClock
from fakes.tree import FakeServers, FakeTree
from fakes.worlds import NOWHERE, SUBDIR, spec_of

from envmgr import settings
from envmgr.agent.agent import Agent
from envmgr.agent.hands import Installed
from envmgr.agent.identity import Identity, Machine
from envmgr.agent.jobs import Job, attempt
from envmgr.agent.memory import Memory
from envmgr.cluster.administration import Administration
from envmgr.coordination.zookeeper import tree as paths
from envmgr.coordination.zookeeper.nodes import Node, Stamp
from envmgr.errors import Cancelled, CoordinatorUnavailable, EnvironmentNotFound, EnvmgrError
from envmgr.events import Reporter
from envmgr.model import LockInForce, Spec
from envmgr.names import Alias, BuildId, EnvName
from envmgr.ports import Siblings
from envmgr.wire.cluster import Declaration
from envmgr.wire.tree import EnvironmentStatus, Host, HostStatus, Manifest, Selector, decode, encode


class Session(FakeTree):
    """A tree's session that can be cut off, and lost."""

    def __init__(self, servers: FakeServers) -> None:
        inner = servers.session()
        super().__init__(servers, inner._session)
        self.is_connected = True
        self.epoch = 1
        self.is_silent = False
        """Whether no call is answered, although the connection stands."""
        self.listeners: list[Callable[[str], None]] = []

    def get(self, path: str, *, watch: Callable[[], None] | None = None, timeout_s: float = 5.0) -> Node | None:
        if self.is_silent:
            raise CoordinatorUnavailable(f"ZooKeeper does not answer about {path}")
        return super().get(path, watch=watch, timeout_s=timeout_s)

    def stamp(self, path: str, *, watch: Callable[[], None] | None = None, timeout_s: float = 5.0) -> Stamp | None:
        if self.is_silent:
            raise CoordinatorUnavailable(f"ZooKeeper does not answer about {path}")
        return super().stamp(path, watch=watch, timeout_s=timeout_s)

    @property
    def session_id(self) -> int:
        return self._session

    def hear(self, listener: Callable[[str], None]) -> Callable[[], None]:
        self.listeners.append(listener)
        return lambda: self.listeners.remove(listener)

    def lose(self) -> None:
        """Be given up by the servers and have a new session."""
        self._servers.end(self._session)
        self.renew()

    def renew(self) -> None:
        """Have a new session while the servers still keep what the old one made."""
        self._session = self._servers.session()._session
        self.epoch += 1


class Hands:
    """A host that does what it is told, as the test says: `fails` and `solved` by name."""

    def __init__(self) -> None:
        self.builds: dict[EnvName, Installed] = {}
        self.solved: dict[EnvName, str] = {}
        """The cluster's lockfiles."""
        self.generations: dict[EnvName, int] = {}
        """Which ones those are, where not the first."""
        self.fails: dict[EnvName, EnvmgrError] = {}
        self.done: list[tuple[str, EnvName]] = []
        self.retried: list[EnvName] = []
        self.aliases: dict[Alias, EnvName] = {}
        self.shared: Mapping[str, object] = {}
        self.asked = 0
        self.is_cut_off = False
        self.surprise: Exception | None = None
        self._count = 0

    def put(self, name: EnvName, digest: str | None) -> None:
        """Have an environment published, made from a lockfile."""
        self._count += 1
        self.builds[name] = Installed(BuildId(f"b-{self._count}"), digest, SUBDIR)

    def published(self) -> Mapping[EnvName, Installed]:
        if self.surprise is not None:
            raise self.surprise
        return dict(self.builds)

    def cluster_lock(self, name: EnvName, machine_class: str) -> LockInForce | None:
        assert machine_class == SUBDIR
        if self.is_cut_off:
            raise CoordinatorUnavailable("ZooKeeper does not answer")
        self.asked += 1
        digest = self.solved.get(name)
        return None if digest is None else LockInForce(self.generations.get(name, 1), digest)

    def target(self, alias: Alias) -> EnvName | None:
        return self.aliases.get(alias)

    def set_alias(self, alias: Alias, name: EnvName) -> None:
        self.aliases[alias] = name

    def remove_alias(self, alias: Alias, name: EnvName) -> None:
        if self.aliases.get(alias) == name:
            del self.aliases[alias]

    def share(self, settings: Mapping[str, object]) -> tuple[str, ...]:
        self.shared = settings
        return ("offline is each host's own affair",) if "offline" in settings else ()

    def make(self, spec: Spec, *, is_retry: bool, report: Reporter, is_cancelled: Callable[[], bool]) -> None:
        self._do("make", spec.name, is_cancelled)
        if is_retry:
            self.retried.append(spec.name)
        self.put(spec.name, self.solved.setdefault(spec.name, "first"))

    def align(self, name: EnvName, *, report: Reporter, is_cancelled: Callable[[], bool]) -> None:
        self._do("align", name, is_cancelled)
        own = self.builds[name].lock_digest
        theirs = self.solved.setdefault(name, str(own))
        if own != theirs:
            self.put(name, theirs)

    def remove(self, name: EnvName) -> None:
        self._do("remove", name, lambda: False)
        if self.builds.pop(name, None) is None:
            raise EnvironmentNotFound(f"{name} is not here")

    @contextmanager
    def turn(self, name: EnvName, places: int, *, is_cancelled: Callable[[], bool]) -> Iterator[object]:
        self.done.append((f"turn of {places}", name))
        yield None

    def _do(self, what: str, name: EnvName, is_cancelled: Callable[[], bool]) -> None:
        if is_cancelled():
            raise Cancelled("not wanted")
        self.done.append((what, name))
        if name in self.fails:
            raise self.fails[name]

    def take_done(self) -> list[str]:
        done, self.done = self.done, []
        return [what for what, _ in done]


class Coordinator:
    """Hears what the agent tells."""

    def __init__(self) -> None:
        self.names: Mapping[EnvName, int] = {}
        self.siblings = Siblings()
        self.host: str | None = None
        self.declared_classes: Mapping[str, Mapping[str, str]] = {}

    def named(self, host: str) -> None:
        self.host = host

    def declared(self, names: Mapping[EnvName, int]) -> None:
        self.names = names

    def living(self, siblings: Siblings, archives: Mapping[str, str] | None = None) -> None:
        self.siblings = siblings

    def classes(self, classes: Mapping[str, Mapping[str, str]]) -> None:
        self.declared_classes = classes


class Jobs:
    """Jobs that begin when the test says so."""

    def __init__(self) -> None:
        self.begun: list[tuple[Job, Callable[[], None]]] = []

    def start(self, job: Job, work: Callable[[], None]) -> None:
        self.begun.append((job, work))

    def run(self, count: int = 1000) -> None:
        for job, work in self.begun[:count]:
            job.error = attempt(job, work)
            job.is_done = True
        del self.begun[:count]


class World:
    """A cluster in memory, an administrator, and this host's agent."""

    def __init__(self, host: str = "here", servers: FakeServers | None = None, **environ: str) -> None:
        self.servers = servers or FakeServers()
        self.clock = FakeClock()
        self.session = Session(self.servers)
        self.hands = Hands()
        self.jobs = Jobs()
        self.coordinator = Coordinator()
        self.memory = Memory()
        self.kept: list[Memory] = []
        self.is_full = False
        self.kept_identities: list[Identity] = []
        self.identity = identity(host)
        variables = {f"ENVMGR_{key.upper()}": value for key, value in environ.items()}
        self.found = settings.load(
            root=None, mode="personal", environ=variables, home=NOWHERE, etc=NOWHERE, subdir=SUBDIR
        )
        self.admin = Administration(self.servers.session(), by="test", clock=self.clock)
        self.agent = self.start()

    def start(self) -> Agent:
        """Return an agent as after a start of the daemon."""
        self.jobs.begun.clear()
        self.agent = Agent(
            self.session, self.coordinator, self.hands, self.hands, self.identity,
            settings_of=self.settings, clock=self.clock, memory=self.memory, keep=self._keep,
            keep_identity=self.kept_identities.append, jobs=self.jobs,
        )  # fmt: skip
        return self.agent

    def restart(self) -> Agent:
        """End the daemon's session and start it again, as another instance."""
        self.session.lose()
        self.identity = dataclasses.replace(self.identity, instance=self.identity.instance + "'", is_settled=True)
        return self.start()

    def settings(self) -> settings.Settings:
        return self.found

    def _keep(self, memory: Memory) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.kept.append(memory)
        self.memory = memory

    def solve(self, name: EnvName, generation: int, digest: str) -> None:
        """Have a generation of a lockfile published by another host."""
        manifest = Manifest(
            name=name, machine_class=SUBDIR, generation=generation, digest=digest, sha256="", size_bytes=0,
            parts_in="", parts=0, published_by="there", published_at=0.0, token=1,
        )  # fmt: skip
        self.session.create(paths.manifest(name, SUBDIR, generation), encode(manifest))
        self.hands.solved[name] = digest
        self.hands.generations[name] = generation

    def declare(
        self, *requirements: str, hosts: tuple[str, ...] = (), alias: str | None = None, parallel: int = 0
    ) -> EnvName:
        spec = spec_of(*requirements)
        self.admin.create(
            Declaration(
                spec=dataclasses.asdict(spec), selector=Selector(hosts=hosts), alias=alias, max_parallel=parallel
            )
        )
        return spec.name

    def turn(self, seconds: float = 100.0) -> None:
        """Let time pass, and the agent do a full pass."""
        self.clock.now += seconds
        self.agent.turn()

    def settle(self, turns: int = 3) -> None:
        """Let passes and jobs follow each other."""
        for _ in range(turns):
            self.turn()
            self.jobs.run()
        self.turn()

    @property
    def told(self) -> HostStatus:
        """What this host says of itself."""
        node = self.session.get(paths.status(self.agent._membership.identity.host))
        assert node is not None
        return decode(HostStatus, node.data, "status")

    def state(self, name: EnvName) -> EnvironmentStatus:
        return next(found for found in self.told.environments if found.name == name)

    def host_record(self, host: str) -> Host | None:
        node = self.session.get(paths.host(host))
        return None if node is None else decode(Host, node.data, "host")


def identity(host: str, *, machine: str = "m1", store: str = "s1", instance: str = "i1") -> Identity:
    return Identity(host, Machine(machine * 16, "boot", host), store, instance, is_settled=False)
