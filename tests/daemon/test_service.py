"""The service: what is ready at once, one operation for all who ask, who may do what, and each change told once."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fakes.backend import Orders
from fakes.clock import FakeClock
from fakes.processes import LIMIT_S
from fakes.worlds import World, make_world, open_descriptors

from envmgr import lockfile, ready
from envmgr.daemon.service import MOST_ALIASES, MOST_TEXTS, Service
from envmgr.errors import (
    AliasTaken,
    EnvironmentInUse,
    EnvironmentNotFound,
    EnvmgrError,
    InvalidSpec,
    LockfileMismatch,
    PermissionRefused,
    PolicyRefused,
    TimedOut,
    Unsatisfiable,
    UsageError,
)
from envmgr.model import Caller
from envmgr.names import EnvName
from envmgr.operations import Flight, Operations
from envmgr.settings import Mode, Settings
from envmgr.store import publication, records
from envmgr.wire import socket as wire

ANN = Caller("ann", "use", uid=1001, pid=1)
BEN = Caller("ben", "use", uid=1002, pid=2)
ROOT = Caller("root", "admin", uid=0, pid=3)
NUMPY = "dependencies:\n  - numpy\n"
ZLIB = "dependencies:\n  - zlib\n"
PIP = "dependencies:\n  - python\n  - pip\n  - pip:\n      - rich\n"


class Told:
    """An observer that remembers."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str, str | None, str]] = []
        self.facts: list[dict[str, object]] = []
        self._more = threading.Condition()

    def changed(
        self, caller: Caller, what: str, name: str | None, outcome: str, duration_s: float, **facts: object
    ) -> None:
        assert duration_s >= 0
        with self._more:
            self.changes.append((caller.user, what, name, outcome))
            self.facts.append(facts)
            self._more.notify_all()

    def wait(self, count: int) -> None:
        """Wait until so many changes were told: that of an operation comes after its end."""
        with self._more:
            assert self._more.wait_for(lambda: len(self.changes) >= count, LIMIT_S)


@dataclasses.dataclass
class Daemon:
    """A service over a fake backend, and what a test looks at beside it."""

    world: World
    orders: Orders
    operations: Operations
    service: Service
    told: Told

    def have(self, text: str, caller: Caller = ROOT, **options: object) -> ready.Lease:
        """Have an environment made if need be, and return a lease on it; raise what the operation failed with."""
        found = self.service.ensure(caller, spec(text, **options))
        if isinstance(found, ready.Lease):
            return found
        result(found)
        lease = found.lease()
        assert lease is not None
        return lease

    def is_ready(self, text: str, caller: Caller = ANN) -> bool:
        lease = self.service.look(caller, spec(text))
        if lease is not None:
            lease.close()
        return lease is not None


def spec(text: str, includes: dict[str, str] | None = None, **options: object) -> wire.EnsureRequest:
    document = wire.SpecDocument(text=text, includes=includes or {})
    return wire.EnsureRequest(spec=document, **options)  # type: ignore[arg-type]  # a test's own words


def by_name(word: str, **options: object) -> wire.EnsureRequest:
    return wire.EnsureRequest(name=word, **options)  # type: ignore[arg-type]


def result(found: ready.Lease | Flight) -> wire.Result:
    """Wait for an operation and return its result, or raise its error."""
    assert isinstance(found, Flight)
    bell = threading.Event()
    stop = found.listen(bell.set)
    while not found.is_finished:
        assert bell.wait(LIMIT_S)
        bell.clear()
    stop()
    if found.error is not None:
        raise found.error
    done = found.snapshot().result
    assert done is not None
    return done


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Start a service with settings; at the end no descriptor is left."""
    before = open_descriptors()
    made = []

    def start_one(clock: FakeClock | None = None, mode: Mode = "service", **settings: str) -> Daemon:
        world = make_world(tmp_path, clock=clock)
        told = Told()
        given = {"allowed_channels": "all", **settings}
        environ = {f"ENVMGR_{key.upper()}": value for key, value in given.items()}
        manager = world.manager(environ, mode)
        operations = Operations(max_running=2, max_waiting=100, max_waiting_per_caller=100, clock=manager.context.clock)
        service = Service(manager, operations=operations, observer=told)
        daemon = Daemon(world, Orders(world.orders), operations, service, told)
        made.append(daemon)
        return daemon

    yield start_one
    for daemon in made:
        daemon.service.drain(LIMIT_S)
    assert open_descriptors() == before


@pytest.fixture
def daemon(start: Callable[..., Daemon]) -> Daemon:
    return start()


# ------------------------------------------------------------------------------------------------------------- ensure


def test_built_once_and_then_ready(daemon: Daemon) -> None:
    """The first who asks has it built, with its result; then a look finds it by text, name and alias."""
    first = daemon.service.ensure(ANN, spec(NUMPY, alias="numbers"))
    made = result(first)
    assert isinstance(made, wire.EnsureResult)
    assert made.was_built
    name = made.ready.name
    assert records.read_creator(daemon.world.layout, EnvName(name)) == ANN.uid
    for request in (spec(NUMPY), by_name(name), by_name("numbers"), spec(NUMPY, alias="numbers")):
        for lease in (daemon.service.look(BEN, request), daemon.service.ensure(BEN, request)):
            assert isinstance(lease, ready.Lease)
            assert lease.prefix == made.ready.prefix
            lease.close()
    assert len(daemon.world.builds_begun()) == 1
    assert len(daemon.operations.all()) == 1


def test_a_hundred_callers_one_build(daemon: Daemon) -> None:
    """A hundred callers of one new environment at one moment share one operation; each has a lease of his own."""
    daemon.orders.hang()  # who looked before the build and asks after its end has an operation of his own
    barrier, have_asked = threading.Barrier(100), threading.Barrier(101)

    def ask(number: int) -> str:
        barrier.wait(LIMIT_S)
        flight = daemon.service.ensure(Caller(f"user{number}", "use", uid=number), spec(NUMPY))
        have_asked.wait(LIMIT_S)
        result(flight)
        assert isinstance(flight, Flight)
        lease = flight.lease()
        assert lease is not None
        lease.close()
        return lease.build_id

    with ThreadPoolExecutor(100) as pool:
        builds = pool.map(ask, range(100))
        have_asked.wait(LIMIT_S)
        daemon.orders.wait_started()
        daemon.orders.release()
        assert len(set(builds)) == 1
    assert len(daemon.world.builds_begun()) == 1
    assert len(daemon.operations.all()) == 1


def test_ready_ones_do_not_wait_for_builds(daemon: Daemon) -> None:
    """While all places are taken by builds that stand still, what is ready is leased at once, from the manager, too."""
    daemon.have(ZLIB).close()
    daemon.orders.hang()
    flights = []
    for number in range(4):
        flights.append(daemon.service.ensure(ANN, spec(f"dependencies:\n  - tool{number}\n")))
        if number < 2:
            daemon.orders.wait_started()
    assert daemon.is_ready(ZLIB)
    commented = f"# not seen before\n{ZLIB}"
    assert daemon.service.look(ANN, spec(commented)) is None
    lease = daemon.service.ensure(ANN, spec(commented))
    assert isinstance(lease, ready.Lease)
    lease.close()
    assert daemon.is_ready(commented)
    assert (daemon.operations.running, daemon.operations.queued) == (2, 2)
    for flight in flights:
        assert isinstance(flight, Flight)
        daemon.service.cancel(ANN, flight.id)
    daemon.orders.release_nobody()


def test_a_known_name_is_built_again(daemon: Daemon) -> None:
    """A name or alias whose environment was removed is built from its stored spec; an unknown one is not found."""
    lease = daemon.have(NUMPY, alias="numbers")
    lease.close()
    daemon.service.remove(ROOT, lease.name, "refuse", forget=False)
    made = result(daemon.service.ensure(ANN, by_name("numbers")))
    assert isinstance(made, wire.EnsureResult)
    assert made.was_built
    for word in ("nobody-knows", "env-0123456789abcdef"):
        with pytest.raises(EnvironmentNotFound):
            daemon.service.ensure(ANN, by_name(word))


def test_requests_that_make_no_sense(daemon: Daemon) -> None:
    """Neither or both of spec and name, and words that are neither name nor alias, are the caller's mistake."""
    nonsense = [
        wire.EnsureRequest(),
        dataclasses.replace(spec(NUMPY), name="x"),
        by_name("../etc/passwd"),
        by_name(""),
        spec(NUMPY, alias="a/b"),
        spec(NUMPY, alias="env-0123"),
    ]
    for request in nonsense:
        assert daemon.service.look(ANN, request) is None
        with pytest.raises(UsageError):
            daemon.service.ensure(ANN, request)
    assert daemon.operations.all() == ()


def test_documents_are_read_without_files(daemon: Daemon, tmp_path: Path) -> None:
    """What a spec includes comes with the request or is a problem of it; no file of this host is read for it."""
    (tmp_path / "requirements.txt").write_text("rich\n")
    for path in ("requirements.txt", f"{tmp_path}/requirements.txt", "/etc/passwd", "../requirements.txt"):
        text = f"dependencies:\n  - pip:\n      - -r {path}\n"
        with pytest.raises(InvalidSpec) as refused:
            daemon.service.name(ANN, wire.NameRequest(spec=wire.SpecDocument(text=text, includes={})))
        assert [problem.line for problem in refused.value.problems] == [3]
        assert "not sent along" in refused.value.problems[0].message
    text = "dependencies:\n  - pip:\n      - -r requirements.txt\n"
    document = wire.SpecDocument(text=text, includes={"requirements.txt": "rich\n"})
    named = daemon.service.name(ANN, wire.NameRequest(spec=document))
    assert "rich" in named.canonical_text
    # Such a text alone says nothing of its name.
    lease = daemon.have(text, includes={"requirements.txt": "rich\n"})
    lease.close()
    assert lease.name == named.name
    assert not daemon.is_ready(text)
    assert daemon.service.look(ANN, spec(text, includes={"requirements.txt": "other\n"})) is None


@pytest.mark.parametrize(
    ("text", "includes"),
    [
        ("\ud800", {}), (NUMPY, {"a": "\udfff"}), ("", {}), ("\0", {}), ("a: [", {}), ("x" * (9 << 20), {}),
        (NUMPY, {str(number): "" for number in range(257)}),
    ],
    ids=["surrogate", "surrogate included", "empty", "nul", "not YAML", "large", "many includes"],
)  # fmt: skip
def test_documents_that_cannot_be_read(daemon: Daemon, text: str, includes: dict[str, str]) -> None:
    """What is no document is refused as such, by every call that takes one."""
    document = wire.SpecDocument(text=text, includes=includes)
    assert daemon.service.look(ANN, wire.EnsureRequest(spec=document)) is None
    with pytest.raises(InvalidSpec):
        daemon.service.ensure(ANN, wire.EnsureRequest(spec=document))
    with pytest.raises(InvalidSpec):
        daemon.service.lock(ANN, wire.LockRequest(spec=document))
    with pytest.raises(InvalidSpec):
        daemon.service.name(ANN, wire.NameRequest(spec=document))


def test_a_failure_is_everybodys_until_retried(daemon: Daemon) -> None:
    """The operation fails with the build's error; so does who asks soon after, but not who asks with retry."""
    daemon.orders.fail(Unsatisfiable("no numpy"))
    for _ in range(2):
        with pytest.raises(Unsatisfiable):
            result(daemon.service.ensure(ANN, spec(NUMPY)))
    assert len(daemon.world.builds_begun()) == 1
    daemon.told.wait(2)
    assert [facts.get("is_repeated", False) for facts in daemon.told.facts] == [False, True]
    shown = daemon.service.environments(ANN).environments[0]
    assert shown.failure is not None
    assert (shown.state, shown.failure.code, shown.failure.retry_at is not None) == ("failed", "unsatisfiable", True)
    daemon.orders.withdraw("fail")
    daemon.have(NUMPY, ANN, retry=True).close()


def test_a_brought_lockfile(daemon: Daemon) -> None:
    """A lockfile is built exactly and stored without credentials; where another is in force it is refused."""
    locked = result(daemon.service.lock(ANN, wire.LockRequest(spec=wire.SpecDocument(text=NUMPY, includes={}))))
    assert isinstance(locked, wire.LockResult)
    assert not daemon.is_ready(NUMPY)
    daemon.orders.say("version", "2.0")
    secret = locked.text.replace("https://channel.invalid", "https://me:secret@channel.invalid")
    assert secret != locked.text
    lease = daemon.have(NUMPY, ANN, lockfile=secret)
    lease.close()
    stored = daemon.service.lockfile(ANN, lease.name).text
    assert "secret" not in stored
    assert lockfile.parse(stored, "linux-64").digest == locked.lock_digest
    assert "secret" not in "".join(
        path.read_text(errors="replace") for path in daemon.world.root.rglob("*") if path.is_file()
    )
    other = locked.text.replace("1.0", "3.0")
    with pytest.raises(LockfileMismatch):
        daemon.service.ensure(ANN, spec(NUMPY, lockfile=other))
    with pytest.raises(InvalidSpec):
        daemon.service.ensure(ANN, spec(NUMPY, lockfile="nonsense"))


def test_a_user_plants_no_packages_under_everybodys_name(daemon: Daemon) -> None:
    """A user's lockfile is not the first of a spec, and one that equals it changes nothing of where packages lie."""
    document = wire.SpecDocument(text=NUMPY, includes={})
    locked = result(daemon.service.lock(ROOT, wire.LockRequest(spec=document)))
    assert isinstance(locked, wire.LockResult)
    elsewhere = locked.text.replace("https://channel.invalid", "https://other.invalid")
    assert elsewhere != locked.text
    daemon.have(NUMPY, ANN, lockfile=elsewhere).close()
    assert daemon.service.lockfile(ANN, locked.name).text == locked.text
    daemon.service.remove(ROOT, locked.name, "refuse", forget=True)
    with pytest.raises(PolicyRefused) as raised:
        daemon.service.ensure(ANN, spec(NUMPY, lockfile=elsewhere))
    assert raised.value.fields["rule"] == "lockfile"
    assert not daemon.is_ready(NUMPY)
    daemon.have(NUMPY, ROOT, lockfile=elsewhere).close()


# ----------------------------------------------------------------------------------------------------- who may do what


def test_a_user_may_look(daemon: Daemon) -> None:
    """Everybody may list, show, and read the log, the lockfile and the spec, by name and by alias."""
    lease = daemon.have(NUMPY, alias="numbers")
    shown = daemon.service.environment(ANN, "numbers")
    assert (shown.name, shown.state, shown.aliases, shown.builds) == (
        lease.name, "ready", ("numbers",), (lease.build_id,),
    )  # fmt: skip
    assert shown.used_by == ()  # but of the daemon's own process, which hands its leases over
    lease.close()
    assert daemon.service.environments(ANN).environments[0].name == lease.name
    assert "installed" in daemon.service.log(ANN, "numbers").text
    assert "numpy" in daemon.service.lockfile(ANN, "numbers").text
    assert daemon.service.spec(ANN, "numbers").text == NUMPY
    assert daemon.service.aliases(ANN).aliases == {"numbers": lease.name}
    status = daemon.service.status(ANN)
    assert (status.role, status.environments, status.running, status.is_draining) == ("use", 1, 0, False)
    assert status.size_bytes > 0
    for ask in (daemon.service.environment, daemon.service.log, daemon.service.lockfile, daemon.service.spec):
        with pytest.raises(EnvironmentNotFound):
            ask(ANN, "unknown")
        with pytest.raises(UsageError):
            ask(ANN, "..")


def test_what_only_an_admin_may(daemon: Daemon) -> None:
    """Each change of what is everybody's is refused to a user, naming the rule and the setting, and changes nothing."""
    daemon.have(NUMPY, alias="numbers").close()
    service = daemon.service
    other = daemon.have(ZLIB)
    other.close()
    refused: list[Callable[[], object]] = [
        lambda: service.remove(ANN, "numbers", "when-free", forget=True),
        lambda: service.relock(ANN, "numbers", wire.RelockRequest()),
        lambda: service.repair(ANN, "numbers"),
        lambda: service.set_pinned(ANN, "numbers", is_pinned=True),
        lambda: service.collect(ANN, wire.CollectRequest(dry_run=True)),
        lambda: service.remove_alias(ANN, "numbers"),
        lambda: service.set_alias(ANN, "numbers", wire.AliasRequest(environment=other.name, move=True)),
        lambda: service.ensure(ANN, spec(ZLIB, alias="numbers", move_alias=True)),
    ]
    before = (daemon.service.environments(ANN), daemon.service.aliases(ANN))
    for act in refused:
        with pytest.raises(PermissionRefused) as error:
            act()
        assert (error.value.fields["rule"], error.value.fields["setting"]) == ("admin", "admin_group")
    assert (daemon.service.environments(ANN), daemon.service.aliases(ANN)) == before
    assert [outcome for *_, outcome in daemon.told.changes].count("refused") == len(refused)


def test_what_an_admin_does(daemon: Daemon) -> None:
    """An admin pins, relocks, repairs, moves and drops aliases, collects and removes; each is told once."""
    lease = daemon.have(NUMPY)
    lease.close()
    service, name = daemon.service, lease.name
    daemon.told.wait(1)
    del daemon.told.changes[:]
    assert service.set_pinned(ROOT, name, is_pinned=True).is_pinned
    assert service.environment(ROOT, name).is_pinned
    service.set_pinned(ROOT, name, is_pinned=False)
    daemon.orders.say("version", "2.0")
    relocked = result(service.relock(ROOT, name, wire.RelockRequest(exclude_newer="2030-01-01")))
    repaired = result(service.repair(ROOT, name))
    assert isinstance(relocked, wire.ReplaceResult)
    assert isinstance(repaired, wire.ReplaceResult)
    assert (relocked.old_build_id, relocked.is_new) == (lease.build_id, True)
    assert repaired.old_build_id == relocked.build_id
    service.set_alias(ROOT, "a", wire.AliasRequest(environment=name))
    assert service.remove_alias(ROOT, "a").aliases == {}
    collected = result(service.collect(ROOT, wire.CollectRequest(dry_run=True)))
    assert isinstance(collected, wire.CollectResult)
    assert collected.dry_run
    assert service.remove(ROOT, name, "refuse", forget=True).is_deleted
    daemon.operations.drain(LIMIT_S)
    assert sorted(daemon.told.changes, key=str) == sorted([
        ("root", "pin", name, "succeeded"), ("root", "unpin", name, "succeeded"), ("root", "relock", name, "succeeded"),
        ("root", "repair", name, "succeeded"), ("root", "alias", name, "succeeded"),
        ("root", "unalias", name, "succeeded"), ("root", "collect", None, "succeeded"),
        ("root", "remove", name, "succeeded"),
    ], key=str)  # fmt: skip


def test_aliases_of_users(daemon: Daemon) -> None:
    """A user sets a free alias, again without effect, and gets `AliasTaken` for another's before anything is built."""
    lease = daemon.have(NUMPY)
    lease.close()
    assert daemon.service.set_alias(ANN, "mine", wire.AliasRequest(environment=lease.name)).aliases == {
        "mine": lease.name
    }
    daemon.service.set_alias(BEN, "mine", wire.AliasRequest(environment="mine"))
    with pytest.raises(AliasTaken):
        daemon.service.ensure(BEN, spec(ZLIB, alias="mine"))
    assert len(daemon.world.builds_begun()) == 1
    with pytest.raises(EnvironmentNotFound):
        daemon.service.set_alias(ANN, "more", wire.AliasRequest(environment="env-0123456789abcdef"))
    moved = daemon.have(ZLIB, ROOT, alias="mine", move_alias=True)
    moved.close()
    assert daemon.service.aliases(ANN).aliases == {"mine": moved.name}


def test_what_costs_a_user_nothing_is_bounded(daemon: Daemon) -> None:
    """Of a ready environment, a user leaves only so many texts and aliases behind; texts are answered all the same."""
    lease = daemon.have(NUMPY)
    lease.close()
    for number in range(MOST_TEXTS + 20):
        daemon.have(f"{NUMPY}# {number}\n", ANN).close()
    assert len(list((daemon.world.root / "by-text").iterdir())) <= MOST_TEXTS + 1
    for number in range(MOST_ALIASES):
        os.symlink(lease.name, daemon.world.root / "envs" / f"alias{number}")
    with pytest.raises(PolicyRefused) as raised:
        daemon.service.set_alias(ANN, "more", wire.AliasRequest(environment=lease.name))
    assert raised.value.fields["rule"] == "aliases-per-environment"
    daemon.service.set_alias(ANN, "alias0", wire.AliasRequest(environment=lease.name))
    daemon.service.set_alias(ROOT, "more", wire.AliasRequest(environment=lease.name))


def test_who_may_drop_an_alias(daemon: Daemon) -> None:
    """A user drops what he had set, however he set it, and nobody else's; after a drop it is the next one's."""
    service = daemon.service
    with contextlib.closing(daemon.have(NUMPY, ANN, alias="built")) as lease:
        name = lease.name
    service.set_alias(ANN, "set", wire.AliasRequest(environment=name))
    daemon.have(NUMPY, ANN, alias="found").close()
    service.set_alias(BEN, "set", wire.AliasRequest(environment=name))  # it is there already: it stays Ann's
    service.set_alias(ROOT, "prod", wire.AliasRequest(environment=name))
    for alias in ("built", "set", "found", "prod", "absent"):
        with pytest.raises(PermissionRefused):
            service.remove_alias(BEN, alias)
    for alias in ("built", "set", "found"):
        assert alias not in service.remove_alias(ANN, alias).aliases
    service.set_alias(BEN, "set", wire.AliasRequest(environment=name))
    with pytest.raises(PermissionRefused):
        service.remove_alias(ANN, "set")
    assert service.remove_alias(BEN, "set").aliases == {"prod": name}
    assert service.remove_alias(ROOT, "prod").aliases == {}


def test_an_alias_that_was_free_when_a_user_asked(daemon: Daemon) -> None:
    """Whoever got the alias while a user's build ran keeps it, though the user asked to move it."""
    admins = daemon.have(NUMPY)
    admins.close()
    daemon.orders.hang()
    flight = daemon.service.ensure(ANN, spec(ZLIB, alias="prod", move_alias=True))
    assert isinstance(flight, Flight)
    daemon.orders.wait_started()
    daemon.service.set_alias(ROOT, "prod", wire.AliasRequest(environment=admins.name))
    daemon.orders.release()
    with pytest.raises(AliasTaken):
        result(flight)
    assert daemon.service.aliases(ANN).aliases == {"prod": admins.name}


def test_all_who_join_get_their_aliases(daemon: Daemon) -> None:
    """Whoever joins a build with an alias of his own has it when the build is done."""
    daemon.orders.hang()
    first = daemon.service.ensure(ANN, spec(NUMPY, alias="one"))
    daemon.orders.wait_started()
    assert daemon.service.ensure(BEN, spec(NUMPY, alias="two")) is first
    assert daemon.service.ensure(BEN, spec(NUMPY)) is first
    daemon.orders.release()
    result(first)
    assert set(daemon.service.aliases(ANN).aliases) == {"one", "two"}


def test_policies_bind_users_and_not_admins(start: Callable[..., Daemon]) -> None:
    """A user is refused at once what the settings do not allow, with rule and setting; an admin has it made."""
    daemon = start(allowed_channels="conda-forge")
    text = f"channels:\n  - elsewhere\n{NUMPY}"
    with pytest.raises(PolicyRefused) as refused:
        daemon.service.ensure(ANN, spec(text))
    assert (refused.value.fields["rule"], refused.value.fields["setting"]) == ("channel", "allowed_channels")
    with pytest.raises(PolicyRefused):
        daemon.service.lock(ANN, wire.LockRequest(spec=wire.SpecDocument(text=text, includes={})))
    assert daemon.operations.all() == ()
    assert [(what, outcome) for _, what, _, outcome in daemon.told.changes] == [
        ("ensure", "refused"), ("lock", "refused"),
    ]  # fmt: skip
    daemon.have(text, ROOT).close()
    assert daemon.is_ready(text)


def test_a_build_that_takes_too_long_is_ended(start: Callable[..., Daemon]) -> None:
    """A build that does not end holds its place for no longer than the setting says, which the error names."""
    daemon = start(max_build_s="0.2")
    daemon.orders.hang()
    flight = daemon.service.ensure(ANN, spec(NUMPY))
    daemon.orders.wait_started()
    with pytest.raises(TimedOut) as ended:
        result(flight)
    assert ended.value.fields["setting"] == "max_build_s"
    assert not daemon.is_ready(NUMPY)


def test_the_owner_of_a_personal_store_keeps_to_his_own_settings(start: Callable[..., Daemon]) -> None:
    """What he would be refused without a daemon he is refused with one."""
    daemon = start(mode="personal", allowed_channels="conda-forge")
    with pytest.raises(PolicyRefused):
        daemon.service.ensure(ROOT, spec(f"channels:\n  - elsewhere\n{NUMPY}"))


def test_a_users_policy_failure_is_not_an_admins(daemon: Daemon) -> None:
    """What a build was refused under a user's rules is remembered for users; an admin's request tries anew."""
    daemon.orders.fail(PolicyRefused("rich would be built from source", rule="sdist", setting="allow_sdists"))
    for _ in range(2):
        with pytest.raises(PolicyRefused):
            result(daemon.service.ensure(ANN, spec(PIP)))
    assert len(daemon.world.builds_begun()) == 1
    daemon.orders.withdraw("fail")
    daemon.have(PIP, ROOT).close()


def test_users_and_admins_share_what_no_rule_can_part(daemon: Daemon) -> None:
    """Without a pip section or a brought lockfile one operation serves both roles; with one, each has his own."""
    daemon.orders.hang()
    first = daemon.service.ensure(ANN, spec(NUMPY))
    daemon.orders.wait_started()
    assert daemon.service.ensure(ROOT, spec(NUMPY)) is first
    other = daemon.service.ensure(ANN, spec(PIP))
    daemon.orders.wait_started()
    admins = daemon.service.ensure(ROOT, spec(PIP))
    assert admins is not other
    daemon.orders.release()
    built = [result(flight) for flight in (first, other, admins)]
    assert len(daemon.world.builds_begun()) == 2
    assert sum(it.was_built for it in built if isinstance(it, wire.EnsureResult)) == 2


def test_so_many_environments_of_one_user(start: Callable[..., Daemon]) -> None:
    """A user has no more environments made than the setting says, those on their way counted; others are not bound."""
    daemon = start(max_environments_per_user="2")
    daemon.have(NUMPY, ANN).close()
    daemon.orders.hang()
    flight = daemon.service.ensure(ANN, spec(ZLIB))
    daemon.orders.wait_started()
    third = "dependencies:\n  - third\n"
    with pytest.raises(PolicyRefused) as refused:
        daemon.service.ensure(ANN, spec(third))
    assert refused.value.fields["setting"] == "max_environments_per_user"
    assert daemon.service.ensure(ANN, spec(ZLIB)) is flight
    daemon.orders.release()
    result(flight)
    daemon.have(third, BEN).close()
    daemon.have(third, ANN).close()  # ready: nothing is made for him
    token = Caller("token", "use")
    for number in range(2):
        daemon.have(f"dependencies:\n  - tool{number}\n", token).close()
    with pytest.raises(PolicyRefused):
        daemon.service.ensure(token, spec("dependencies:\n  - tool2\n"))


def test_only_so_many_at_one_moment(start: Callable[..., Daemon]) -> None:
    """Eight requests of one user at one moment do not slip past his limit together."""
    daemon = start(max_environments_per_user="3")
    barrier = threading.Barrier(8)

    def ask(number: int) -> bool:
        barrier.wait(LIMIT_S)
        try:
            daemon.have(f"dependencies:\n  - tool{number}\n", ANN).close()
        except PolicyRefused:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask, range(8))) == 3


def test_who_may_cancel(daemon: Daemon) -> None:
    """The only one who asked may cancel, and an admin; not one of several, and not a stranger."""
    daemon.orders.hang()
    flight = daemon.service.ensure(ANN, spec(NUMPY))
    assert isinstance(flight, Flight)
    daemon.orders.wait_started()
    with pytest.raises(PermissionRefused):
        daemon.service.cancel(BEN, flight.id)
    daemon.service.ensure(BEN, spec(NUMPY))
    with pytest.raises(PermissionRefused):
        daemon.service.cancel(ANN, flight.id)
    daemon.service.cancel(ROOT, flight.id)
    with pytest.raises(EnvmgrError) as error:
        result(flight)
    assert (error.value.code, error.value.message) == ("cancelled", "root cancelled it")
    own = daemon.service.ensure(ANN, spec(ZLIB))
    assert isinstance(own, Flight)
    daemon.orders.wait_started()
    daemon.service.cancel(ANN, own.id)
    with pytest.raises(EnvmgrError):
        result(own)
    with pytest.raises(EnvironmentNotFound):
        daemon.service.cancel(ROOT, "0" * 16)
    daemon.orders.release_nobody()
    assert publication.published(daemon.world.layout) == {}
    assert list(daemon.world.layout.builds.iterdir()) == []


@pytest.mark.parametrize("kind", ["lock", "relock", "repair"])
def test_cancel_of_each_kind(daemon: Daemon, kind: str) -> None:
    """Whatever builds or solves stops when it is told to, and leaves what was there."""
    lease = daemon.have(ZLIB)
    lease.close()
    daemon.orders.hang()
    if kind == "lock":
        flight = daemon.service.lock(ROOT, wire.LockRequest(spec=wire.SpecDocument(text=NUMPY, includes={})))
    elif kind == "relock":
        flight = daemon.service.relock(ROOT, lease.name, wire.RelockRequest())
    else:
        flight = daemon.service.repair(ROOT, lease.name)
    daemon.orders.wait_started()
    daemon.service.cancel(ROOT, flight.id)
    with pytest.raises(EnvmgrError) as error:
        result(flight)
    assert error.value.code == "cancelled"
    daemon.orders.release_nobody()
    assert daemon.is_ready(ZLIB)
    assert len(list(daemon.world.layout.builds.iterdir())) == 1


# ------------------------------------------------------------------------------------------------------------- the rest


def test_removal_takes_the_handovers_lease_back(daemon: Daemon) -> None:
    """What nobody took over does not keep an environment; who uses it does, and is named."""
    flight = daemon.service.ensure(ANN, spec(NUMPY))
    result(flight)
    assert isinstance(flight, Flight)
    lease = flight.lease()
    assert lease is not None
    with pytest.raises(EnvironmentInUse) as used:
        daemon.service.remove(ROOT, lease.name, "refuse", forget=False)
    assert len(used.value.users) == 1
    lease.close()
    assert daemon.service.remove(ROOT, lease.name, "refuse", forget=False).is_deleted
    assert flight.lease() is None


def test_removal_waits_for_a_build_so_long(start: Callable[..., Daemon]) -> None:
    """A removal of what is being built does not wait for ever, says what to do, and changes nothing."""
    daemon = start(FakeClock())
    daemon.orders.hang()
    flight = daemon.service.ensure(ANN, spec(NUMPY, alias="numbers"))
    daemon.orders.wait_started()
    assert flight.name is not None
    with pytest.raises(TimedOut) as late:
        daemon.service.remove(ROOT, flight.name, "refuse", forget=True)
    assert "cancel" in str(late.value.hint)
    daemon.orders.release()
    assert isinstance(result(flight), wire.EnsureResult)


def test_what_cannot_be_replaced(daemon: Daemon) -> None:
    """Relock and repair want an environment that is there, and relock a time that is one."""
    lease = daemon.have(NUMPY)
    lease.close()
    with pytest.raises(UsageError):
        daemon.service.relock(ROOT, lease.name, wire.RelockRequest(exclude_newer="yesterday"))
    daemon.service.remove(ROOT, lease.name, "refuse", forget=False)
    for act in (
        lambda: daemon.service.relock(ROOT, lease.name, wire.RelockRequest()),
        lambda: daemon.service.repair(ROOT, lease.name),
    ):
        with pytest.raises(EnvironmentNotFound):
            act()


def test_what_is_told_of_a_build(daemon: Daemon) -> None:
    """A build that ended is told once, with what is known of it; one that failed, with its code; a look is not."""
    daemon.have(NUMPY, ANN).close()
    daemon.have(NUMPY, ANN).close()
    daemon.told.wait(1)
    assert daemon.told.changes == [
        ("ann", "ensure", next(iter(publication.published(daemon.world.layout))), "succeeded")
    ]
    facts = daemon.told.facts[0]
    assert {"operation", "build_id", "waiters", "phases_s", "downloaded_bytes", "size_bytes"} <= set(facts)
    assert facts["was_built"] is True
    assert set(facts["phases_s"]) == {"solve", "link"}  # type: ignore[call-overload]
    daemon.orders.fail(Unsatisfiable("no zlib"))
    with pytest.raises(Unsatisfiable):
        daemon.have(ZLIB, ANN)
    daemon.operations.drain(LIMIT_S)
    assert daemon.told.changes[1][3] == "failed"
    assert daemon.told.facts[1]["code"] == "unsatisfiable"


def test_reload(start: Callable[..., Daemon]) -> None:
    """New settings bind the next request, and new limits the queue; wrong ones leave the old in force."""
    daemon = start()
    answers: list[Settings | EnvmgrError] = [UsageError("wrong")]

    def reread() -> Settings:
        found = answers.pop()
        if isinstance(found, EnvmgrError):
            raise found
        return found

    manager = daemon.world.manager()
    service = Service(manager, operations=daemon.operations, reread=reread)
    with pytest.raises(UsageError):
        service.reload()
    assert service.settings is manager.context.settings
    environ = {"ENVMGR_MAX_BUILDS": "1", "ENVMGR_ALLOWED_CHANNELS": "conda-forge"}
    answers.append(daemon.world.manager(environ).context.settings)
    service.reload()
    with pytest.raises(PolicyRefused):
        service.ensure(ANN, spec(f"channels:\n  - elsewhere\n{NUMPY}"))
    daemon.orders.hang()
    flights = [service.ensure(ANN, spec(text)) for text in (NUMPY, ZLIB)]
    daemon.orders.wait_started()
    assert (daemon.operations.running, daemon.operations.queued) == (1, 1)
    daemon.orders.release()
    for flight in flights:
        result(flight)


def test_operations_are_listed(daemon: Daemon) -> None:
    """The list has every operation, the newest last, without the text of a lockfile; one has all of it."""
    document = wire.SpecDocument(text=NUMPY, includes={})
    flight = daemon.service.lock(ANN, wire.LockRequest(spec=document))
    locked = result(flight)
    result(daemon.service.ensure(BEN, spec(NUMPY)))
    listed = daemon.service.operations(ANN).operations
    assert [(it.kind, it.by) for it in listed] == [("lock", "ann"), ("ensure", "ben")]
    assert isinstance(listed[0].result, wire.LockResult)
    assert isinstance(locked, wire.LockResult)
    assert (listed[0].result.text, listed[0].result.lock_digest) == ("", locked.lock_digest)
    assert daemon.service.operation(BEN, flight.id).snapshot().result == locked
