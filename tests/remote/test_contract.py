"""The same claims, made of the manager and of the daemon's client: results, errors, progress, limits."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import daemon_process
import pytest
from daemon_process import Place

from envmgr import errors, names, ready, spec
from envmgr.errors import (
    AliasTaken,
    Cancelled,
    EnvironmentInUse,
    EnvironmentNotFound,
    EnvmgrError,
    LockfileMismatch,
    TimedOut,
    Unsatisfiable,
)
from envmgr.events import Event
from envmgr.manager.collection import Limits
from envmgr.manager.manager import Manager
from envmgr.model import Spec
from envmgr.names import EnvName
from envmgr.remote.manager import RemoteManager
from envmgr.store import records
from envmgr.store.layout import Layout

pytestmark = pytest.mark.slow  # real daemons
ABSENT = EnvName("env-0000000000000000")
COLLECTABLE = spec.parse("dependencies: [collectable]")
"""Made before there is a daemon, which keeps what it just handed over from collection for a while."""


@pytest.fixture(scope="module", params=["alone", "daemon"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """One store for all claims; each brings a spec of its own."""
    is_served = request.param == "daemon"
    with daemon_process.place(tmp_path_factory.mktemp("place"), is_served=False) as made:
        made.front().ensure(COLLECTABLE).lease.close()
        if is_served:
            made.start()
        assert isinstance(made.front(), RemoteManager if is_served else Manager)
        yield made


@pytest.fixture
def front(place: Place) -> Manager | RemoteManager:
    return place.front()


@pytest.fixture
def wanted(request: pytest.FixtureRequest) -> Spec:
    """A spec that no other claim is about."""
    word = request.node.originalname.replace("_", "-")
    return spec.parse(f"name: {word}\ndependencies: [{word}]\n")


def error_of(cls: type[EnvmgrError], call: Callable[..., object], *words: object, **options: object) -> Any:
    """Return the error, of exactly this class, that a call raises, as JSON."""
    with pytest.raises(cls) as raised:
        call(*words, **options)
    assert type(raised.value) is cls
    return raised.value.to_json()


def made(front: Manager | RemoteManager, wanted: Spec, **options: Any) -> str:
    """Have an environment ready, give the lease back and return its build."""
    ensured = front.ensure(wanted, **options)
    ensured.lease.close()
    return ensured.lease.build_id


def test_ensure_builds_once_and_leases(place: Place, front: Manager | RemoteManager, wanted: Spec) -> None:
    """The first call builds and tells its phases, the second finds; both are leased by the caller's own descriptor."""
    told: list[Event] = []
    first = front.ensure(wanted, report=told.append)
    assert [(event.kind, event.phase) for event in told] == [
        ("begin", "solve"), ("end", "solve"), ("begin", "link"), ("end", "link"),
    ]  # fmt: skip
    assert (first.was_built, first.lease.name, first.lease.root) == (True, wanted.name, str(place.root))
    assert first.duration_s > 0
    told.clear()
    second = front.ensure(wanted, report=told.append)
    assert (second.was_built, second.lease.build_id, told) == (False, first.lease.build_id, [])
    assert os.getpid() in {user.pid for user in front.show(wanted.name).used_by}
    assert front.record(wanted.name, second.lease.build_id).digest == wanted.digest
    assert "building" in front.log(wanted.name)
    assert front.verify(wanted.name) == ()
    assert wanted.name in {info.name for info in front.list()}
    first.lease.close()
    second.lease.close()


def test_show_tells_the_same_as_list(front: Manager | RemoteManager, wanted: Spec) -> None:
    """One environment is told alike, with every fact about its build."""
    build_id = made(front, wanted, alias=names.alias("shown"))
    info = front.show(wanted.name)
    (listed,) = (one for one in front.list() if one.name == wanted.name)
    assert (info.state, info.build_id, info.label, info.aliases) == ("ready", build_id, wanted.label, ("shown",))
    assert isinstance(info.path, Path)
    assert isinstance(info.prefix, Path)
    assert info.digest == wanted.digest
    assert (listed.path, listed.prefix, listed.created_at) == (info.path, info.prefix, info.created_at)
    assert error_of(EnvironmentNotFound, front.show, ABSENT)["hint"] == "envmgr list shows what is"


def test_a_failure_is_what_it_was(place: Place, front: Manager | RemoteManager, wanted: Spec) -> None:
    """Class, message, hint, fields; it is remembered, and ``retry`` tries again at once."""
    error = Unsatisfiable("nothing provides it", hint="ask for less", packages=["a"])
    place.orders.fail(error)
    assert error_of(Unsatisfiable, front.ensure, wanted) == error.to_json()
    place.orders.withdraw("fail")
    again = error_of(Unsatisfiable, front.ensure, wanted)
    assert (again["message"], again["code"]) == (error.message, error.code)
    assert "create --retry tries again at once" in again["hint"]
    info = front.show(wanted.name)
    assert info.failure is not None
    assert (info.state, info.failure.message, info.failure.attempts) == ("failed", error.message, 1)
    assert "unsatisfiable: nothing provides it" in front.log(wanted.name)
    made(front, wanted, retry=True)
    assert front.show(wanted.name).failure is None


def test_an_alias_is_checked_before_and_set_after(place: Place, front: Manager | RemoteManager, wanted: Spec) -> None:
    """An alias that stands for another costs no build; `move` takes it."""
    other = spec.parse("dependencies: [other-of-alias]")
    alias = names.alias("production")
    made(front, other, alias=alias)
    begun = len(place.backend().begun())
    taken = error_of(AliasTaken, front.ensure, wanted, alias=alias)
    assert taken["message"] == f"alias 'production' stands for {other.name}, not for {wanted.name}"
    assert len(place.backend().begun()) == begun
    made(front, wanted, alias=alias, move_alias=True)
    assert front.aliases()[alias] == wanted.name
    assert error_of(AliasTaken, front.set_alias, alias, other.name)["code"] == "alias_taken"
    front.set_alias(alias, other.name, move=True)
    assert ready.resolve_alias(str(place.root), alias) == other.name
    assert error_of(EnvironmentNotFound, front.set_alias, names.alias("free"), ABSENT)["code"] == "not_found"
    front.remove(wanted.name)
    gone = error_of(EnvironmentNotFound, front.set_alias, alias, wanted.name, move=True)
    assert gone["hint"] == "envmgr create FILE makes it"
    assert front.remove_alias(alias) == other.name
    assert error_of(EnvironmentNotFound, front.remove_alias, alias)["code"] == "not_found"


def test_a_time_limit_ends_the_call_and_the_build(place: Place, front: Manager | RemoteManager, wanted: Spec) -> None:
    """`TimedOut` says the limit; nothing of the build is left, and the next call makes the environment."""
    os.mkfifo(place.orders.directory / "hang")
    assert error_of(TimedOut, front.ensure, wanted, timeout_s=0.5) == {
        "code": "timed_out", "message": "not ready within 0.5 s", "hint": "--timeout (timeout_s) allows more",
        "is_transient": True, "fields": {"timeout_s": 0.5},
    }  # fmt: skip
    place.orders.withdraw("hang")
    place.wait_until_idle()
    made(front, wanted)
    assert len(list((place.root / "builds").glob(f"{wanted.digest[:12]}-*"))) == 1


def test_a_wish_to_stop_ends_the_call_and_the_build(place: Place, front: Manager | RemoteManager, wanted: Spec) -> None:
    """`Cancelled` within a moment; nothing of the build is left, and the next call makes the environment."""
    place.orders.hang()
    wish = threading.Event()
    found: list[object] = []
    caller = threading.Thread(
        target=lambda: found.append(error_of(Cancelled, front.ensure, wanted, is_cancelled=wish.is_set))
    )
    caller.start()
    place.orders.wait_started()
    wish.set()
    caller.join(10)
    assert not caller.is_alive()
    place.orders.release_nobody()
    assert found == [Cancelled("the caller gave up").to_json()]
    place.wait_until_idle()
    made(front, wanted)
    assert len(list((place.root / "builds").glob(f"{wanted.digest[:12]}-*"))) == 1


def test_who_comes_second_waits_for_the_first(place: Place, front: Manager | RemoteManager, wanted: Spec) -> None:
    """Two who ask at once get one build; both are answered when it is done."""
    place.orders.hang()
    builds: list[str] = []
    callers = [threading.Thread(target=lambda: builds.append(made(place.front(), wanted))) for _ in range(2)]
    callers[0].start()
    place.orders.wait_started()
    callers[1].start()
    place.orders.release()
    for caller in callers:
        caller.join(20)
    assert len(builds) == 2
    assert len(set(builds)) == 1
    assert place.backend().begun().count(builds[0]) == 1


def test_lock_is_what_ensure_installs(place: Place, front: Manager | RemoteManager, wanted: Spec) -> None:
    """The lockfile that was printed is in force; another one is refused by what it is."""
    text = front.lock(wanted)
    place.orders.say("version", "2.0")
    other = front.lock(spec.parse("dependencies: [other-of-lock]"))
    made(front, wanted, lock_text=text)
    place.orders.withdraw("version")
    assert front.lock(wanted) == text
    assert error_of(LockfileMismatch, front.ensure, wanted, lock_text=other)["message"].startswith(
        f"{wanted.name} was built from lockfile "
    )
    with pytest.raises(errors.InvalidSpec):
        front.ensure(spec.parse("dependencies: [third-of-lock]"), lock_text="no lockfile")


def test_relock_and_repair_replace(place: Place, front: Manager | RemoteManager, wanted: Spec) -> None:
    """Nothing new leaves the build; new packages, and a repair, put another in its place."""
    told: list[Event] = []
    first = made(front, wanted)
    same = front.relock(wanted.name, report=told.append)
    assert (same.is_new, same.record.build_id, same.old_build_id) == (False, first, first)
    assert ("begin", "solve") in {(event.kind, event.phase) for event in told}
    place.orders.say("version", "2.0")
    newer = front.relock(wanted.name, exclude_newer="2030-01-01T00:00:00Z")
    place.orders.withdraw("version")
    assert (newer.is_new, newer.old_build_id) == (True, first)
    repaired = front.repair(wanted.name)
    assert repaired.old_build_id == newer.record.build_id
    assert repaired.record.lock_digest == newer.record.lock_digest
    assert front.show(wanted.name).build_id == repaired.record.build_id
    for verb in (front.relock, front.repair):
        assert error_of(EnvironmentNotFound, verb, ABSENT)["code"] == "not_found"


def test_remove_refuses_what_is_used(front: Manager | RemoteManager, wanted: Spec) -> None:
    """In use: the users are named; ``when_free`` takes the name; free: it is gone, and then it is not found."""
    ensured = front.ensure(wanted)
    with pytest.raises(EnvironmentInUse) as raised:
        front.remove(wanted.name)
    assert os.getpid() in {user.pid for user in raised.value.users}
    assert raised.value.hint is not None
    assert "--when-free" in raised.value.hint
    kept = front.remove(wanted.name, when_free=True)
    assert (kept.name, kept.build_id, kept.is_deleted) == (wanted.name, ensured.lease.build_id, False)
    assert os.getpid() in {user.pid for user in kept.users}
    assert Path(ensured.lease.prefix).exists()
    ensured.lease.close()
    made(front, wanted)
    gone = front.remove(wanted.name, forget=True)
    assert (gone.is_deleted, gone.users) == (True, ())
    assert error_of(EnvironmentNotFound, front.remove, wanted.name)["code"] == "not_found"


def test_pin_keeps_from_collection(front: Manager | RemoteManager) -> None:
    """A pinned environment survives a collection that takes all others; unpinned it goes, and a dry run says so."""
    name = COLLECTABLE.name
    everything = Limits(max_age_s=0.001, min_age_s=0.0)
    front.pin(name, is_pinned=True)
    assert front.show(name).is_pinned
    assert name not in {found.name for found in front.collect(dry_run=True, limits=everything)}
    front.pin(name, is_pinned=False)
    assert not front.show(name).is_pinned
    found = {thing.name: thing for thing in front.collect(dry_run=True, limits=everything)}
    assert isinstance(found[name].path, Path)
    assert found[name].size_bytes > 0
    assert front.show(name).state == "ready"
    gone = {thing.name: thing for thing in front.collect(limits=everything)}[name]
    assert (gone.path, gone.size_bytes) == (found[name].path, found[name].size_bytes)
    assert front.show(name).state == "absent"
    assert error_of(EnvironmentNotFound, front.pin, ABSENT, is_pinned=True)["code"] == "not_found"


def test_included_files_need_not_be_where_it_is_built(place: Place, front: Manager | RemoteManager) -> None:
    """What a document includes goes along with it, and is kept beside the environment."""
    files = {"requirements.txt": b"six\n-c bounds.txt\n", "bounds.txt": b"six<2\n"}
    wanted = spec.parse(
        "dependencies: [included, pip, {pip: [-r requirements.txt]}]", read_include=lambda path: files[path]
    )
    made(front, wanted)
    kept = records.read_spec(Layout(place.root), wanted.name)
    assert kept is not None
    assert dict(kept.includes) == {path: content.decode() for path, content in files.items()}


def test_a_host_that_the_spec_is_not_for(front: Manager | RemoteManager) -> None:
    """An error that is found on the way to a build has its class, too."""
    wanted = spec.parse("dependencies: [elsewhere]\nplatforms: [win-64]")
    assert "win-64" in error_of(errors.IncompatibleHost, front.ensure, wanted)["message"]


def test_the_verbs_are_the_same() -> None:
    """Each verb of the client takes what the manager's takes, with the same defaults."""
    others = {"list", "show", "record", "log", "verify", "aliases", "remember_text"}
    verbs = {name for name in vars(RemoteManager) if not name.startswith("_")}
    assert verbs >= others | {
        "ensure",
        "remove",
        "lock",
        "relock",
        "repair",
        "set_alias",
        "remove_alias",
        "pin",
        "collect",
    }
    for verb in verbs:
        mine = inspect.signature(getattr(RemoteManager, verb)).parameters
        its = dict(inspect.signature(getattr(Manager, verb)).parameters)
        for own in ("protected", "by_cluster"):  # the daemon's: nobody who asks it says what the cluster wants
            its.pop(own, None)
        assert {name: it.default for name, it in mine.items()} == {name: it.default for name, it in its.items()}, verb
