"""Rounds of random work and random faults over a cluster, by a seed; after each round all must be well.

In a round environments are declared, removed, relocked, made by hosts for themselves and leased, while solves and
builds are stopped in their middle, and hosts and servers are cut off, frozen, killed and switched off. Then everything
is put right, and within `SETTLE_S` every host must be as the cluster wants it, without anybody's help; nothing may be
left, and the history must hold.

A long run has more, for which a test has no time: one host solves alone while ZooKeeper is away, and is healed; a
relock and a heal are asked for by a host's daemon while all else goes on; the administrator's own session expires;
hosts are cordoned; and some rounds end with everything switched off at once, in the middle of what it did.

What is done follows from the seed alone; when it meets the cluster's own threads does not.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable

from fakes.worlds import spec_of

from envmgr.errors import EnvmgrError
from envmgr.names import EnvName
from hosts.clusters import Cluster
from hosts.faults import HOST_FAULTS
from hosts.nodes import Node, until

SETTLE_S = 90.0
_PAUSE_S = (0.05, 0.6)
_MOST_HARMED = 2
_MOST_DECLARED = 6
_NETWORK = frozenset({"cable", "mute", "deaf", "loss"})
_OUTAGES = 0.25
_HEAL_S = 3.0


def make_cluster(make: Callable[[int], Cluster], count: int, *, is_long: bool = False) -> Cluster:
    """Make a cluster whose last two hosts share a store, where such can be mounted, and start its daemons.

    For a long run its first host solves alone when it has to.
    """
    cluster = make(count)
    if is_long:
        cluster[0].configure({**cluster.settings, "solve_without_coordinator": True, "coordinator_wait_s": 1})
        cluster[0].variables["SOLVES_ALONE"] = "1"
    if shutil.which("bindfs") is not None:
        shared = cluster.network.directory / "shared"
        shared.mkdir()
        for node in list(cluster.nodes.values())[-2:]:
            node.share(shared, "--enable-lock-forwarding")
    cluster.start()
    return cluster


class Run:
    """See the module."""

    def __init__(self, cluster: Cluster, seed: int, *, is_long: bool = False) -> None:
        self._cluster = cluster
        self._is_long = is_long
        self._chance = random.Random(seed)
        self._harmed: dict[str, str] = {}
        self._declared: list[EnvName] = []
        self._words: dict[EnvName, str] = {}
        self._gone: set[EnvName] = set()
        self._cordoned: set[str] = set()
        self._alone: set[EnvName] = set()
        self._leases = contextlib.ExitStack()
        self._count = 0
        self.did: Counter[str] = Counter()

    def rounds(self, seconds: float, round_s: float = 10.0) -> int:
        """Do rounds for so many seconds, at least one, and return how many."""
        end, done = time.monotonic() + seconds, 0
        while not done or time.monotonic() < end:
            self.round(min(round_s, max(1.0, end - time.monotonic())))
            done += 1
        return done

    def round(self, seconds: float) -> None:
        """Let things happen for so many seconds; put everything right; prove that all is well."""
        end = time.monotonic() + seconds
        acts = {
            self._declare: 4, self._remove: 2, self._relock: 1, self._make: 2, self._lease: 2, self._hold: 4,
            self._let_go: 4, self._harm: 6, self._mend: 4, self._kill_server: 2, self._start_servers: 2,
        }  # fmt: skip
        if self._is_long:
            acts |= {self._make_alone: 4, self._heal: 1, self._cordon: 1, self._expire_administrator: 1}
        pause = threading.Event()
        if not self._declared:  # without any there is no cluster that hosts could join
            self._declare()
        with self._leases:
            while time.monotonic() < end:
                (act,) = self._chance.choices([*acts], [*acts.values()])
                act()
                pause.wait(self._chance.uniform(*_PAUSE_S))
            if self._is_long and self._chance.random() < _OUTAGES:
                self._outage()
            self._put_right()
        for name in self._declared:
            self._agree(name)
        alone, *others = self._cluster.nodes.values()
        for name in self._gone:
            # What a host made for itself, and never heard that it was declared, stays its own.
            self._cluster.wait_absent(name, others if name in self._alone else [alone, *others])
        self._cluster.prove_rest()

    def _put_right(self) -> None:
        self._cluster.start_servers()
        for node in self._cluster.nodes.values():
            node.solves.open()
            node.builds.open()
        for name in [*self._harmed]:
            self._end(name)
        for host in self._cordoned:
            self._cluster.cordon(host, is_cordoned=False)
        self._cordoned.clear()

    def _agree(self, name: EnvName) -> None:
        """Wait until all hosts have it from the newest lockfile; what one made alone stays until it is healed."""
        next_at = time.monotonic()

        def agreed() -> str | None:
            nonlocal next_at
            if time.monotonic() >= next_at and self._is_long and self._cluster.drifted(name):
                self._cluster.heal()
                self.did["healed"] += 1
                next_at = time.monotonic() + _HEAL_S
            return self._cluster.agreed(name)

        digest = until(agreed, lambda: f"{name}: {self._cluster.told(name)}", SETTLE_S)
        until(lambda: self._cluster.in_force(name) == digest, f"{name}: the newest lockfile is not {digest}")

    # ----------------------------------------------------------------------------------------------------- what is done

    def _well(self) -> list[Node]:
        return [node for node in self._cluster.nodes.values() if node.name not in self._harmed]

    def _is_served(self) -> bool:
        servers = self._cluster.servers
        return 2 * sum(servers.pid(number) is not None for number in range(servers.count)) > servers.count

    def _declare(self, *, is_new: bool = False) -> None:
        if not self._is_served() or len(self._declared) >= _MOST_DECLARED:
            return
        again = [] if is_new else sorted(self._gone)
        if again and self._chance.random() < 0.3:
            name = self._chance.choice(again)
            self._gone.discard(name)
            self._cluster.create(self._words[name])
        else:
            self._count += 1
            word = f"word-{self._count}"
            name = self._cluster.create(word)
            self._words[name] = word
        self._declared.append(name)
        self.did["declared"] += 1

    def _remove(self) -> None:
        if self._declared and self._is_served():
            name = self._declared.pop(self._chance.randrange(len(self._declared)))
            self._cluster.remove(name)
            self._gone.add(name)
            self.did["removed"] += 1

    def _relock(self) -> None:
        if self._declared and self._is_served():
            for node in self._cluster.nodes.values():
                node.orders.say("version", f"{self._chance.randrange(2, 1000)}.{node.name[4:]}")
            name = self._chance.choice(self._declared)
            if not self._is_asked_by_a_host("relock", name):
                self._cluster.relock(name)
            self.did["relocked"] += 1

    def _heal(self) -> None:
        if self._is_served() and not self._is_asked_by_a_host("heal"):
            self._cluster.heal()

    def _is_asked_by_a_host(self, *words: str) -> bool:
        """Have a host's daemon asked in the background of all that follows in this round, or not."""
        node = self._anybody()
        if not self._is_long or node is None or self._chance.random() < 0.5:
            return False
        self._leases.enter_context(node.running("cluster", *words))
        self.did["asked by a host"] += 1
        return True

    def _cordon(self) -> None:
        node = self._chance.choice([*self._cluster.nodes.values()])
        if self._is_served() and node.name not in self._cordoned:
            self._cluster.cordon(node.name, is_cordoned=True)
            self._cordoned.add(node.name)
            self.did["cordoned"] += 1

    def _make(self) -> None:
        """Have a host make something for itself, in the background of a short patience."""
        self._on_a_host(
            lambda node: node.envmgr(
                "create", "-", "--timeout", "2", given=spec_of(f"own-{self._chance.randrange(4)}").source_text.encode()
            ),
            "made",
        )

    def _make_alone(self) -> None:
        """Declare what the host that may solve alone makes for itself just now, hearing nothing of ZooKeeper."""
        node, spec = self._cluster[0], spec_of(f"word-{self._count + 1}")
        harm = self._harmed.get(node.name)
        if harm in _NETWORK or (harm is None and not self._is_served()):
            self._leases.enter_context(node.running("create", "-", given=spec.source_text.encode()))
            self._alone.add(spec.name)
            self.did["made alone"] += 1
            self._declare(is_new=True)

    def _lease(self) -> None:
        wanted = [*self._declared, *self._gone]
        if wanted:
            name = self._chance.choice(sorted(wanted))
            self._on_a_host(lambda node: self._leases.enter_context(node.leasing(name)), "leased")

    def _anybody(self) -> Node | None:
        """Return one of the hosts that are well, if there is one."""
        well = self._well()
        return self._chance.choice(well) if well else None

    def _on_a_host(self, do: Callable[[Node], object], what: str) -> None:
        node = self._anybody()
        if node is not None:
            with contextlib.suppress(EnvmgrError, LookupError):
                do(node)
                self.did[what] += 1

    def _hold(self) -> None:
        node = self._chance.choice([*self._cluster.nodes.values()])
        stop = self._chance.choice([node.solves, node.builds])
        if not stop.is_closed:
            stop.close()
            self.did["stopped"] += 1

    def _let_go(self) -> None:
        for node in self._cluster.nodes.values():
            node.solves.open()
            node.builds.open()

    # ------------------------------------------------------------------------------------------------ what befalls them

    def _harm(self) -> None:
        if len(self._harmed) >= _MOST_HARMED:
            return
        node, harm = self._chance.choice(self._well()), self._chance.choice([*HOST_FAULTS])
        if harm == "expiry" and not self._is_served():
            return
        HOST_FAULTS[harm].begin(self._cluster, node)
        self.did[harm] += 1
        if harm != "expiry":
            self._harmed[node.name] = harm

    def _mend(self) -> None:
        if self._harmed:
            self._end(self._chance.choice([*self._harmed]))

    def _end(self, name: str) -> None:
        harm = self._harmed.pop(name, None)
        if harm is None:
            return
        HOST_FAULTS[harm].end(self._cluster, self._cluster.nodes[name])
        if harm in _NETWORK:  # all cables and rules are put right at once
            self._harmed = {other: what for other, what in self._harmed.items() if what not in _NETWORK}

    def _kill_server(self) -> None:
        running = [number for number in range(self._cluster.servers.count) if self._cluster.servers.pid(number)]
        if running:
            self._cluster.servers.kill(self._chance.choice(running))
            self.did["killed a server"] += 1

    def _start_servers(self) -> None:
        self._cluster.start_servers()

    def _expire_administrator(self) -> None:
        if self._is_served():
            self._cluster.expire_administrator()
            self.did["expiry of the administrator"] += 1

    def _outage(self) -> None:
        for name in [*self._harmed]:
            self._end(name)
        for node in self._cluster.nodes.values():
            node.power_off()
        self._cluster.servers.kill_all()
        for node in self._cluster.nodes.values():
            node.boot()
        self._cluster.start()
        self.did["outage"] += 1
