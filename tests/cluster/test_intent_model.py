"""However administrators and hosts interleave, each host comes to want what the last writes say, and nothing is lost.

Administrators lag behind and lose answers; hosts read now and then, from servers that lag, and start again with what
they have kept. A plain dictionary says what must come of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from cluster_worlds import declaration, name_of, number_of, say
from fakes.clock import FakeClock
from fakes.tree import FakeServers, FakeTree, Loss
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from envmgr.cluster.administration import Administration
from envmgr.cluster.intent import Wanted
from envmgr.errors import AliasTaken, EnvironmentNotFound
from envmgr.names import Alias, EnvName

DECLARATIONS = [declaration(word) for word in "xyz"]
HOSTS = ("a", "b", "c")
WHICH = st.integers(0, 2)
BOOLEANS = st.booleans()
LOSSES: st.SearchStrategy[Loss | None] = st.sampled_from([None, "answer", "request"])


class Intents(RuleBasedStateMachine):
    """See the module; host `a` never acknowledges anything, so that what is absent stays to be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.servers = FakeServers()
        self.clock = FakeClock()
        self.sessions = [self.servers.session() for _ in range(3)]
        self.admins = [Administration(session, by="ada", clock=self.clock) for session in self.sessions]
        self.hosts = {host: Wanted(host=host) for host in HOSTS}
        self.readers = {host: self.servers.session() for host in HOSTS}
        self.states: dict[EnvName, tuple[str, int]] = {}
        self.aliases: dict[str, EnvName] = {}
        self.cordons: set[str] = set()
        self.heals = 0
        self.numbers: set[int] = set()
        for host in HOSTS:
            say(self.sessions[0], host)
        self.admins[0].create(DECLARATIONS[0])
        self.states[name_of(DECLARATIONS[0])] = ("present", 0)

    def admin(self, which: int, loss: Loss | None, *, lags: bool) -> Administration:
        if lags:
            self.sessions[which].lag()
        self.sessions[which].lose_next = loss
        return self.admins[which]

    def current(self) -> FakeTree:
        return self.servers.session()

    def expect(self, verb: Callable[[], object], error: type[Exception] | None) -> bool:
        """Tell whether a verb did its work; it fails as it must."""
        try:
            verb()
            caught: type[Exception] | None = None
        except (AliasTaken, EnvironmentNotFound) as error_:
            caught = type(error_)
        for session in self.sessions:
            session.lose_next = None
        assert caught is error
        return error is None

    @rule(which=WHICH, env=WHICH, bound=st.integers(0, 2), lags=BOOLEANS, loss=LOSSES)
    def create(self, which: int, env: int, bound: int, lags: bool, loss: Loss | None) -> None:
        declared = dataclasses.replace(DECLARATIONS[env], max_parallel=bound)
        admin = self.admin(which, loss, lags=lags)
        self.expect(lambda: admin.create(declared), None)
        self.states[name_of(declared)] = ("present", bound)

    @rule(which=WHICH, env=WHICH, lags=BOOLEANS, loss=LOSSES)
    def remove(self, which: int, env: int, lags: bool, loss: Loss | None) -> None:
        name = name_of(DECLARATIONS[env])
        admin = self.admin(which, loss, lags=lags)
        if self.expect(lambda: admin.remove(name), None if name in self.states else EnvironmentNotFound):
            self.states[name] = ("absent", self.states[name][1])
            self.aliases = {alias: target for alias, target in self.aliases.items() if target != name}

    @rule(which=WHICH, env=WHICH, move=BOOLEANS, lags=BOOLEANS, loss=LOSSES, alias=st.sampled_from(["prod", "test"]))
    def set_alias(self, which: int, env: int, move: bool, lags: bool, loss: Loss | None, alias: str) -> None:
        name = name_of(DECLARATIONS[env])
        taken = self.aliases.get(alias, name) != name and not move
        missing = self.states.get(name, ("", 0))[0] != "present"
        error = EnvironmentNotFound if missing else AliasTaken if taken else None
        admin = self.admin(which, loss, lags=lags)
        if self.expect(lambda: admin.set_alias(Alias(alias), name, move=move), error):
            self.aliases[alias] = name

    @rule(which=WHICH, host=st.sampled_from(HOSTS), is_cordoned=BOOLEANS, lags=BOOLEANS, loss=LOSSES)
    def cordon(self, which: int, host: str, is_cordoned: bool, lags: bool, loss: Loss | None) -> None:
        admin = self.admin(which, loss, lags=lags)
        self.expect(lambda: admin.cordon(host, is_cordoned=is_cordoned), None)
        (self.cordons.add if is_cordoned else self.cordons.discard)(host)

    @rule(which=WHICH, lags=BOOLEANS, loss=LOSSES)
    def heal(self, which: int, lags: bool, loss: Loss | None) -> None:
        self.expect(self.admin(which, loss, lags=lags).heal, None)
        self.heals += 1

    @rule(which=WHICH)
    def export_and_import(self, which: int) -> None:
        admin = self.admin(which, None, lags=False)
        admin.import_(admin.export(), replace=True)

    @rule(host=st.sampled_from(HOSTS), lags=BOOLEANS)
    def read(self, host: str, lags: bool) -> None:
        before = self.hosts[host]
        self.hosts[host] = before.refresh(self.readers[host])
        assert self.hosts[host].revision >= before.revision
        if lags:
            self.readers[host].lag()
        else:
            self.readers[host].sync()

    @rule(host=st.sampled_from(HOSTS))
    def start_again(self, host: str) -> None:
        """The agent begins anew, with another session, and what it had kept."""
        self.hosts[host] = Wanted(host=host, seen=self.hosts[host].seen)
        self.readers[host] = self.servers.session()

    @invariant()
    def every_write_is_one_revision(self) -> None:
        number = number_of(self.current())
        assert not self.numbers or number >= max(self.numbers)
        self.numbers.add(number)

    @invariant()
    def whoever_reads_now_wants_what_was_said_last(self) -> None:
        for host, wanted in self.hosts.items():
            now = wanted.refresh(self.current())
            found = {name: (intent.state, intent.max_parallel) for name, intent in now.intents.items()}
            assert found == self.states
            assert now.aliases == self.aliases
            assert now.is_cordoned == (host in self.cordons)
            assert now.cluster is not None
            assert now.cluster.heal == self.heals
            assert now.may_remove
            assert now.intents == Wanted(host=host).refresh(self.current()).intents


TestIntents = Intents.TestCase
TestIntents.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
