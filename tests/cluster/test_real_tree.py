"""The cluster's intent on a real ZooKeeper: transactions, administrators at the same moment, a lost and an old tree."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from cluster_worlds import declaration, is_so, name_of, number_of, say

from envmgr.cluster import rollout
from envmgr.cluster.administration import Administration
from envmgr.cluster.intent import Wanted
from envmgr.coordination.zookeeper import tree as paths
from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.session import Session
from envmgr.errors import AliasTaken, ClusterTreeRefused, EnvmgrError
from envmgr.manager.context import SystemClock
from envmgr.names import Alias
from envmgr.wire.tree import Revision, decode

X, Y = declaration("x"), declaration("y")


@pytest.fixture
def another(endpoint: Endpoint) -> Iterator[Callable[[], Session]]:
    """Begin further sessions on the same tree."""
    sessions: list[Session] = []

    def begin() -> Session:
        sessions.append(Session(endpoint))
        sessions[-1].start()
        return sessions[-1]

    yield begin
    for session in sessions:
        session.close()


def administration(session: Session) -> Administration:
    return Administration(session, by="ada", clock=SystemClock())


def clear(session: Session, path: str = "/v1") -> None:
    """Delete a node and all below."""
    for child in session.children(path):
        clear(session, f"{path}/{child}")
    session.delete(path)


def at_once(*verbs: Callable[[], object]) -> list[EnvmgrError]:
    """Begin all at the same moment, each in a thread of its own; return what they raised."""
    raised: list[EnvmgrError] = []
    start = threading.Barrier(len(verbs))

    def run(verb: Callable[[], object]) -> None:
        start.wait()
        try:
            verb()
        except EnvmgrError as error:
            raised.append(error)

    threads = [threading.Thread(target=run, args=(verb,)) for verb in verbs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


def test_many_administrators_at_once_lose_nothing(session: Session, another: Callable[[], Session]) -> None:
    """One revision for each write, numbered without a gap, and every one of them in the tree."""
    administration(session).create(X)
    before = number_of(session)
    admins = [administration(another()) for _ in range(4)]

    def several(admin: Administration, first: int) -> None:
        for number in range(first, first + 5):
            admin.create(declaration(f"package{number}"))
            admin.heal()

    assert at_once(*(lambda admin=admin, at=at: several(admin, at * 5) for at, admin in enumerate(admins))) == []
    session.sync()
    node = session.get(paths.REVISION)
    assert node is not None
    revision = decode(Revision, node.data, paths.REVISION)
    assert revision.number == before + 40
    assert [change.revision for change in revision.changes] == list(range(1, revision.number + 1))
    assert administration(session).cluster().heal == 20
    assert len(Wanted(host="a").refresh(session).present()) == 21


def test_a_tree_made_by_many_at_once_is_one_clusters(another: Callable[[], Session]) -> None:
    """Whoever declares first makes the tree; the others find it."""
    sessions = [another() for _ in range(4)]
    declared = [declaration(f"package{number}") for number in range(4)]
    admins = [administration(session) for session in sessions]
    verbs = [lambda admin=admin, it=it: admin.create(it) for admin, it in zip(admins, declared, strict=True)]
    assert at_once(*verbs) == []
    for session in sessions:
        session.sync()
    assert len({admin.cluster().uuid for admin in admins}) == 1
    assert number_of(sessions[0]) == 4


def test_of_two_who_want_one_alias_one_has_it(session: Session, another: Callable[[], Session]) -> None:
    """The other is told whose it is."""
    one, two = administration(session), administration(another())
    one.create(X)
    one.create(Y)
    alias = Alias("prod")
    raised = at_once(lambda: one.set_alias(alias, name_of(X)), lambda: two.set_alias(alias, name_of(Y)))
    assert [type(error) for error in raised] == [AliasTaken]
    session.sync()
    assert one.aliases()[alias] in (name_of(X), name_of(Y))


def test_a_hint_comes_with_the_write_and_costs_one_read_of_what_changed(
    session: Session, another: Callable[[], Session]
) -> None:
    """A host that watches the revision is rung by the next write of any administrator."""
    admin = administration(session)
    admin.create(X)
    host = another()
    rung = threading.Event()
    wanted = Wanted(host="a").refresh(host, watch=rung.set)
    assert not rung.is_set()
    admin.create(Y)
    assert rung.wait(5)
    assert wanted.refresh(host).present().keys() == {name_of(X), name_of(Y)}


def test_waiting_for_a_rollout_is_rung_by_the_hosts(session: Session, another: Callable[[], Session]) -> None:
    """The last host's word ends the wait long before anybody would have looked by himself."""
    admin, host = administration(session), another()
    say(session, "a")
    session.create(paths.host("a"), is_ephemeral=True)
    told = admin.create(X)
    looks: list[int] = []

    def look(_: object, now: rollout.Summary) -> None:
        looks.append(now.counted_ready)
        if len(looks) == 1:
            threading.Thread(target=say, args=(host, "a", is_so(told.name, "ready", told.generation))).start()

    with admin.watching(told.name) as watching:
        done = rollout.wait(watching, clock=SystemClock(), timeout_s=20, on_look=look)
    assert done.rows[0].success
    assert looks[0] == 0
    assert len(looks) <= 4


def test_an_emptied_tree_is_filled_again_from_a_document(session: Session) -> None:
    """Agents refuse the emptied tree; after the import they go on, with the same cluster and generations."""
    admin = administration(session)
    admin.create(X)
    say(session, "a")
    admin.create(Y)
    admin.remove(name_of(Y))
    document = admin.export()
    wanted = Wanted(host="a").refresh(session)
    clear(session)
    with pytest.raises(ClusterTreeRefused, match="emptied"):
        wanted.refresh(session)
    admin.import_(document)
    back = wanted.refresh(session)
    assert (back.intents, back.may_remove, back.seen is not None) == (wanted.intents, True, True)
    assert admin.export().uuid == document.uuid


def test_a_restored_old_tree_removes_nothing(session: Session) -> None:
    """Nodes put back to what they were are told by the revision, whichever way they came back."""
    admin = administration(session)
    say(session, "a")
    admin.create(X)
    admin.remove(name_of(X))
    kept = {path: session.get(path) for path in (paths.REVISION, paths.CLUSTER, paths.intent(name_of(X)))}
    admin.create(X)
    wanted = Wanted(host="a").refresh(session)
    for path, node in kept.items():
        assert node is not None
        session.put(path, node.data)
    old = wanted.refresh(session)
    assert old.absent().keys() == {name_of(X)}
    assert not old.may_remove
    for _ in range(3):
        admin.heal()
    assert not Wanted(host="a", seen=old.seen).refresh(session).may_remove
