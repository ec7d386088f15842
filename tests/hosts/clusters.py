"""A cluster of simulated hosts: ZooKeeper's servers on hosts of their own, a daemon on each other host, one history.

The test itself is beside the bridge: whatever befalls the hosts, it can look at ZooKeeper (`Cluster.session`), at every
disk, and prove the history (`Cluster.prove`).
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TypeVar

from fakes.worlds import spec_of
from kazoo.client import KazooClient
from zookeeper_servers import Servers
from zookeeper_servers import missing as servers_missing

from envmgr import codec
from envmgr.cluster.administration import Administration
from envmgr.coordination.zookeeper import tree
from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.session import Session
from envmgr.errors import CoordinatorUnavailable, EnvironmentNotFound
from envmgr.manager.context import SystemClock
from envmgr.names import EnvName
from envmgr.wire.cluster import Declaration
from envmgr.wire.tree import Manifest, decode
from hosts import history, namespaces
from hosts.namespaces import Network
from hosts.nodes import LIMIT_S, Node, until
from hosts.programs import Programs

T = TypeVar("T")

SESSION_S = 4.0
"""A claim outlasts the election of a leader (a second, or two on a busy machine), and its holder's way back to it."""
_SETTINGS: Mapping[str, object] = {
    "use_condarc": False,
    "use_pip_conf": False,
    "min_free_bytes": 0,
    "min_free_inodes": 0,
    "gc_interval_s": 0,
    "default_channels": ["https://channel.invalid/demo"],
    "zookeeper_session_s": SESSION_S,
    "agent_interval_s": 1,
    "coordinator_wait_s": 4,
}


def missing() -> str | None:
    """Return what this machine lacks, or ``None``."""
    return namespaces.missing() or servers_missing()


class Cluster(contextlib.AbstractContextManager["Cluster"]):
    """See the module; hosts are called ``node0``, ``node1``, …, those of ZooKeeper ``zk0``, ``zk1``, …."""

    def __init__(self, count: int, *, servers: int = 3, settings: Mapping[str, object] | None = None) -> None:
        self._stack = contextlib.ExitStack()
        self.nodes: dict[str, Node] = {}
        with contextlib.ExitStack() as undone:
            self.programs = undone.enter_context(Programs())
            self.network = undone.enter_context(Network([f"zk{number}" for number in range(servers)]))
            self.histories = self.network.directory / "histories"
            self.histories.mkdir()
            self.own = history.Writer(self.histories / "test.jsonl", "test", "test/1")
            self.servers = Servers(
                servers,
                address=lambda number: self.network[f"zk{number}"].address,
                prefix=lambda number: self.network[f"zk{number}"].command(),
                directory=self.network.directory,
            )
            undone.callback(self.servers.close)
            with self.network.beside():
                self.servers.start_all()
            self.settings = {**_SETTINGS, "zookeeper": list(self.servers.addresses), **(settings or {})}
            endpoint = Endpoint(servers=self.servers.addresses, session_s=10.0)
            self.session = Session(endpoint)
            undone.callback(self.session.close)
            with self.network.beside():
                self.session.start()
            self.administration = Administration(self.session, by="test", clock=SystemClock())
            for _ in range(count):
                self.add()
            self._stack = undone.pop_all()

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything, once."""
        self._stack.close()

    def __getitem__(self, number: int) -> Node:
        return self.nodes[f"node{number}"]

    def add(self, *, is_real: bool = False) -> Node:
        """Have one more host, whose daemon is not started."""
        host = self.network.add(f"node{len(self.nodes)}")
        node = self.nodes[host.name] = Node(self, host, is_real=is_real)
        node.configure(self.settings)
        return node

    def start(self, nodes: Iterable[Node] | None = None) -> None:
        """Start daemons (default: all), at once."""
        wanted = list(nodes or self.nodes.values())
        for node in wanted:
            node.launch()
        for node in wanted:
            node.wait_up()

    def start_servers(self) -> None:
        """Start those servers that do not run, and wait until all serve."""
        with self.network.beside():
            for number in range(self.servers.count):
                if self.servers.pid(number) is None:
                    self.servers.start(number)
            self.servers.wait()

    def leader(self) -> int:
        with self.network.beside():
            return self.servers.leader()

    # ------------------------------------------------------------------------------------------------- what is declared

    def create(self, *requirements: str, **options: object) -> EnvName:
        """Declare an environment for all hosts."""
        spec = spec_of(*requirements)
        document = json.loads(codec.dump(spec))
        self._patiently(lambda: self.administration.create(Declaration(spec=document, **options)))  # type: ignore[arg-type]
        return spec.name

    def remove(self, name: EnvName) -> None:
        self._patiently(lambda: self.administration.remove(name))

    def relock(self, name: EnvName) -> None:
        self._patiently(lambda: self.administration.relock(name))

    def _patiently(self, do: Callable[[], T]) -> T:
        """Do something, again and again while ZooKeeper does not answer."""
        end = time.monotonic() + LIMIT_S
        while True:
            try:
                return do()
            except CoordinatorUnavailable:
                if time.monotonic() > end:
                    raise

    def heal(self) -> None:
        self._patiently(self.administration.heal)

    def cordon(self, host: str, *, is_cordoned: bool) -> None:
        self._patiently(lambda: self.administration.cordon(host, is_cordoned=is_cordoned))

    def drifted(self, name: EnvName) -> list[str]:
        """Return the hosts that have an environment and say that it was made from another lockfile."""
        rows = self._patiently(lambda: self.administration.show(name)).rows
        return [row.host for row in rows if row.is_drift and row.state == "ready"]

    def in_force(self, name: EnvName) -> str | None:
        """Return the digest of the newest lockfile, ``None`` while a relock is not done."""
        wanted = self._patiently(lambda: self.administration.show(name)).lock_generation
        found = {generation: digest for (of, _, generation), digest in self.look().items() if of == name}
        newest = max(found, default=0)
        return found[newest] if newest >= wanted else None

    def states(self, name: EnvName) -> dict[str, str]:
        """Return host → what it says of an environment."""
        return {row.host: row.state for row in self._patiently(lambda: self.administration.show(name)).rows}

    def wait_ready(self, name: EnvName, nodes: Iterable[Node] | None = None, limit_s: float = LIMIT_S) -> str:
        """Wait until the hosts have an environment from one lockfile, and say so; return its digest."""
        return str(until(lambda: self.agreed(name, nodes), lambda: f"{name}: {self.told(name)}", limit_s))

    def agreed(self, name: EnvName, nodes: Iterable[Node] | None = None) -> str | None:
        """Return the digest of the one lockfile from which the hosts have an environment, if they do and say so."""
        wanted = list(nodes or self.nodes.values())
        digests = {node.digest(name) for node in wanted}
        if len(digests) != 1 or None in digests:
            return None
        states = self.states(name)
        return digests.pop() if all(states.get(node.name) == "ready" for node in wanted) else None

    def told(self, name: EnvName) -> str:
        try:
            rows = self._patiently(lambda: self.administration.show(name)).rows
        except EnvironmentNotFound:
            rows = ()
        said = [f"{row.host} {row.state} {row.code} {row.message}" for row in rows]
        return "; ".join([*said, *(f"{node.name} has {node.digest(name)}" for node in self.nodes.values())])

    def wait_absent(self, name: EnvName, nodes: Iterable[Node] | None = None) -> None:
        """Wait until the hosts do not have an environment."""
        wanted = list(nodes or self.nodes.values())
        until(lambda: all(node.digest(name) is None for node in wanted), lambda: f"still there: {self.told(name)}")

    # ---------------------------------------------------------------------------------------------- sessions, the tree

    @contextlib.contextmanager
    def zookeeper(self) -> Iterator[KazooClient]:
        """Have a plain client of ZooKeeper for the length of a block."""
        with self.network.beside():
            client = KazooClient(self.servers.connect)
            client.start(10)
        try:
            yield client
        finally:
            client.stop()
            client.close()

    def expire(self, node: Node) -> None:
        """End the session of a host's daemon on the servers, as if it had not been heard of for too long."""
        life = self.session.get(tree.host(node.name))
        if life is not None:
            self._end_session(life.ephemeral_owner)

    def expire_administrator(self) -> None:
        """End the session of the test itself."""
        self._end_session(self.session.session_id)

    def _end_session(self, number: int) -> None:
        with self.network.beside():
            identity = (number, session_password(number))
            thief = KazooClient(self.servers.connect, client_id=identity, timeout=SESSION_S)
            thief.start(10)
            thief.stop()  # closes the session that it took
            thief.close()

    def look(self) -> dict[tuple[str, str, int], str]:
        """Write into the history which lockfiles stand in ZooKeeper, and return their digests."""
        found = {}
        for name in self.session.children(tree.LOCKFILES):
            for machine_class in self.session.children(tree.classes(name)):
                for entry in self.session.children(tree.generations(name, machine_class)):
                    if not entry.isdigit():
                        continue
                    path = tree.manifest(name, machine_class, int(entry))
                    node = self.session.get(path)
                    if node is None:
                        continue
                    manifest = decode(Manifest, node.data, path)
                    found[name, machine_class, manifest.generation] = manifest.digest
                    self.own.moment(
                        "lockfile", name=name, machine_class=machine_class, generation=manifest.generation,
                        digest=manifest.digest, token=manifest.token, zxid=node.czxid,
                        created_at=node.modified_at - time.time() + time.clock_gettime(time.CLOCK_BOOTTIME),
                    )  # fmt: skip
        return found

    def events(self) -> list[history.Event]:
        """Return the history until now."""
        return history.read(sorted(self.histories.glob("*.jsonl")))

    def hosts_of(self, what: str, name: EnvName) -> list[str]:
        """Return the hosts on which something happened to an environment, in order (see `hosts.history`)."""
        return [
            event.host
            for event in self.events()
            if event.what == what and event.phase != "end" and event.facts.get("name") == name
        ]

    def wait_happened(self, what: str, name: EnvName, besides: Collection[Node] = ()) -> Node:
        """Wait until something happened on some other host, and return the host on which it happened last."""
        others = {node.name for node in besides}
        found = until(lambda: [host for host in self.hosts_of(what, name) if host not in others], f"no {what}")
        return self.nodes[found[-1]]

    def prove(self) -> None:
        """Prove the history until now."""
        self.look()
        found = history.violations(self.events())
        assert not found, "\n".join(found)

    def claims(self, path: str = tree.CLAIMS) -> list[str]:
        """Return the nodes of claims that are held or wanted."""
        found = []
        for entry in self.session.children(path):
            node = self.session.get(f"{path}/{entry}")
            if node is not None:
                found += [f"{path}/{entry} {node.data.decode()}"] if node.ephemeral_owner else []
                found += self.claims(f"{path}/{entry}")
        return found

    def prove_rest(self, down: Collection[Node] = ()) -> None:
        """Prove that nothing is left once all is done: no claim, no progress, no builder; and prove the history."""
        live = [node for node in self.nodes.values() if node not in down and node.is_running]

        def left() -> list[str]:
            alive = {node.name for node in live}
            said = set(self.session.children(tree.HOSTS))
            return [
                *self.claims(),
                *(f"{host} is not there" for host in alive - said),
                *(f"{host} is there" for host in said - alive),
                *(f"progress of {host}" for host in self.session.children(tree.PROGRESS)),
                *(word for node in live for word in node.leftovers()),
                *(f"{node.name} runs {word}" for node in live for word in node.strangers()),
            ]

        until(lambda: not self._patiently(left), lambda: f"left: {left()}")
        self.prove()


def session_password(session_id: int) -> bytes:
    """Return the password by which a client shows that a session is its own.

    The servers compute it from the number (``SessionTrackerImpl``, ``ZooKeeperServer.generatePasswd``), by Java's
    ``Random``, a linear congruence that its documentation gives.
    """
    state = ((session_id ^ 0xB3415C00) ^ 0x5DEECE66D) & ((1 << 48) - 1)
    found = b""
    while len(found) < 16:
        state = (state * 0x5DEECE66D + 0xB) & ((1 << 48) - 1)
        found += (state >> 16).to_bytes(4, "little")
    return found
