"""A name leads to a whole build or nowhere; an alias never changes its environment silently."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes.processes import Forked, all_results, gates
from fakes.worlds import begin, digest_of, name_of, observed

from envmgr import fsio, ready
from envmgr.errors import AliasTaken, Corrupt, EnvironmentNotFound
from envmgr.fsio import Step
from envmgr.names import Alias
from envmgr.store import publication, sweep
from envmgr.store.layout import Layout

ALIAS = Alias("training")
ONE, TWO = name_of("one"), name_of("two")


def test_the_first_publication_wins(layout: Layout) -> None:
    """Of builds that are published at one time by processes without a lock, exactly one is; the others are told."""
    builds = [begin(layout, "one") for _ in range(8)]
    assert len({lease.build_id for lease in builds}) == 8
    with gates(2) as (ready_gate, start):

        def run(number: int) -> bool:
            ready_gate.open()
            start.wait()
            return publication.publish(layout, ONE, builds[number].build_id)

        processes = [Forked(lambda number=number: run(number)) for number in range(8)]  # type: ignore[misc]
        ready_gate.wait(8)
        start.open(8)
        won = all_results(processes)
    assert sum(won) == 1
    assert publication.current(layout, ONE) == builds[won.index(True)].build_id
    for lease in builds:
        lease.close()


def test_publishing_twice_is_publishing(layout: Layout) -> None:
    """Who repeats a publication, because he does not know whether it worked, is told that it did."""
    lease = begin(layout, "one")
    assert publication.publish(layout, ONE, lease.build_id)
    assert publication.publish(layout, ONE, lease.build_id)
    lease.close()


def test_republish_only_what_was_read(layout: Layout) -> None:
    """A publication is replaced only while it still leads where the caller read it."""
    first, second, third = (begin(layout, "one") for _ in range(3))
    assert not publication.republish(layout, ONE, first.build_id, second.build_id)
    assert publication.publish(layout, ONE, first.build_id)
    assert publication.republish(layout, ONE, first.build_id, second.build_id)
    assert not publication.republish(layout, ONE, first.build_id, third.build_id)
    assert publication.current(layout, ONE) == second.build_id
    assert not publication.unpublish(layout, ONE, first.build_id)
    assert publication.unpublish(layout, ONE, second.build_id)
    assert publication.current(layout, ONE) is None
    for lease in (first, second, third):
        lease.close()


def test_readers_never_see_a_gap(layout: Layout) -> None:
    """At every point of a republication the name leads to the old build or to the new one."""
    first, second = begin(layout, "one"), begin(layout, "one")
    publication.publish(layout, ONE, first.build_id)
    seen = []
    with observed(lambda _step, _point: seen.append(publication.current(layout, ONE))):
        publication.republish(layout, ONE, first.build_id, second.build_id)
    assert [build == second.build_id for build in seen] == [False, False, True, True]
    first.close()
    second.close()


@pytest.mark.parametrize("kind", ["directory", "file", "link elsewhere", "link to another name's build"])
def test_foreign_things_are_corrupt_never_an_environment(layout: Layout, kind: str) -> None:
    """What envmgr did not make in a name's place is `Corrupt`, is listed as foreign, and stays untouched."""
    path = layout.publication(ONE)
    if kind == "directory":
        (path / "conda-meta").mkdir(parents=True)
    elif kind == "file":
        path.write_text("mine", encoding="ascii")
    elif kind == "link elsewhere":
        path.symlink_to("/usr")
    else:
        path.symlink_to(f"../builds/0123456789ab-1/envs/{TWO}")
    with pytest.raises(Corrupt, match=ONE) as refused:
        ready.acquire(str(layout.root), ONE)
    assert "doctor" in str(refused.value.hint)
    assert publication.foreign(layout) == (ONE,)
    assert publication.published(layout) == {}
    lease = begin(layout, "one")
    with pytest.raises(Corrupt):
        publication.publish(layout, ONE, lease.build_id)
    lease.close()
    assert os.path.lexists(path)
    moved = sweep.quarantine(layout, ONE)
    assert os.path.lexists(moved)
    assert publication.current(layout, ONE) is None


@pytest.mark.parametrize("entry", ["ü" * 120, "a b\tc", "-x", os.fsdecode(b"\xff\xfe"), "x" * 255])
def test_any_entry_can_be_quarantined(layout: Layout, entry: str) -> None:
    """Whatever its name, a foreign thing is moved aside with its content."""
    (layout.envs / entry).mkdir()
    (layout.envs / entry / "data").write_text("mine", encoding="ascii")
    assert publication.foreign(layout) == (entry,)
    assert (sweep.quarantine(layout, entry) / "data").read_text(encoding="ascii") == "mine"
    assert publication.foreign(layout) == ()


def test_an_alias_leads_to_its_name(layout: Layout) -> None:
    """An alias resolves to what its name leads to now; setting it again for the same name does nothing."""
    lease = begin(layout, "one")
    publication.publish(layout, ONE, lease.build_id)
    publication.set_alias(layout, ALIAS, ONE)
    publication.set_alias(layout, ALIAS, ONE)
    assert ready.resolve(str(layout.root), ALIAS) == (ONE, lease.build_id)
    assert publication.all_aliases(layout) == {ALIAS: ONE}
    assert publication.remove_alias(layout, ALIAS) == ONE
    assert ready.resolve(str(layout.root), ALIAS) is None
    assert publication.current(layout, ONE) == lease.build_id
    with pytest.raises(EnvironmentNotFound):
        publication.remove_alias(layout, ALIAS)
    lease.close()


def test_a_taken_alias_needs_a_move(layout: Layout) -> None:
    """A taken alias is refused with the name that has it, and moved in one step on request."""
    publication.set_alias(layout, ALIAS, ONE)
    with pytest.raises(AliasTaken, match=ONE) as refused:
        publication.set_alias(layout, ALIAS, TWO)
    assert refused.value.fields == {"alias": ALIAS, "name": ONE}
    assert "--move" in str(refused.value.hint)
    seen = []
    with observed(lambda _step, _point: seen.append(publication.all_aliases(layout).get(ALIAS))):
        publication.set_alias(layout, ALIAS, TWO, move=True)
    assert None not in seen
    assert publication.all_aliases(layout) == {ALIAS: TWO}


def test_racing_for_one_alias(layout: Layout) -> None:
    """Of callers that want one alias for different names at one moment, one gets it; the others are told who has it."""
    names = [name_of(str(number)) for number in range(8)]
    with gates(2) as (waiting, start):

        def run(number: int) -> str:
            waiting.open()
            start.wait()
            try:
                publication.set_alias(layout, ALIAS, names[number])
            except AliasTaken as taken:
                return str(taken.fields["name"])
            return names[number]

        processes = [Forked(lambda number=number: run(number)) for number in range(8)]  # type: ignore[misc]
        waiting.wait(8)
        start.open(8)
        heard = set(all_results(processes))
    assert heard == {publication.all_aliases(layout)[ALIAS]}


@pytest.mark.parametrize("kind", ["file", "directory", "link elsewhere"])
def test_an_alias_never_replaces_a_foreign_thing(layout: Layout, kind: str) -> None:
    """Even a move leaves alone what envmgr did not make, and says what to do about it."""
    path = layout.envs / ALIAS
    if kind == "file":
        path.write_text("mine", encoding="ascii")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("/usr")
    for move in (False, True):
        with pytest.raises((AliasTaken, Corrupt)) as refused:
            publication.set_alias(layout, ALIAS, ONE, move=move)
        assert refused.value.hint is not None
    assert publication.foreign(layout) == (ALIAS,)


def test_an_alias_dropped_while_it_is_set_is_set(layout: Layout) -> None:
    """Who finds an alias taken that is dropped before he can look whose it is, gets it."""
    publication.set_alias(layout, ALIAS, ONE)

    def overtaken() -> None:
        left = [lambda: publication.remove_alias(layout, ALIAS)]

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "os.listdir" and os.fspath(arguments[0]) == str(layout.envs) and left:
                Forked(left.pop()).result()

        sys.addaudithook(hook)
        publication.set_alias(layout, ALIAS, TWO)
        assert not left

    Forked(overtaken).result()
    assert publication.all_aliases(layout) == {ALIAS: TWO}


def test_dropping_an_alias_twice_at_one_moment(layout: Layout) -> None:
    """Of two callers that drop one alias at one moment, the second hears that it is not there."""
    publication.set_alias(layout, ALIAS, ONE)

    def overtaken() -> str:
        left = [lambda: publication.remove_alias(layout, ALIAS)]

        def observer(step: Step, point: str) -> None:
            if (step, point) == (Step.ALIAS_REMOVAL, "before") and left:
                Forked(left.pop()).result()

        with observed(observer):
            return publication.remove_alias(layout, ALIAS)

    with pytest.raises(EnvironmentNotFound, match="no alias"):
        overtaken()


def test_leftovers_are_swept_and_others_kept(layout: Layout) -> None:
    """A sweep of one spec takes its free, unpublished builds; not the published, the used, nor another spec's."""
    published, used, left, other = (begin(layout, word) for word in ("one", "one", "one", "two"))
    publication.publish(layout, ONE, published.build_id)
    for lease in (published, left, other):
        lease.close()
    assert sweep.sweep_name(layout, digest_of("one")) == (left.build_id,)
    assert set(sweep.all_builds(layout)) == {published.build_id, used.build_id, other.build_id}
    assert os.listdir(layout.trash) == []
    used.close()


def test_deleting_copes_with_anything(tmp_path: Path) -> None:
    """A read-only tree with links and odd names is deleted; what lies behind the links is not touched."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept", encoding="ascii")
    tree = tmp_path / "tree"
    inner = tree / "a" / os.fsdecode(b"\xff")
    inner.mkdir(parents=True)
    (inner / "file").write_text("x", encoding="ascii")
    (inner / "link").symlink_to(outside)
    for directory in (inner, tree / "a", tree):
        directory.chmod(0)

    def run() -> None:
        if os.geteuid() == 0:
            for path in (tmp_path, tree):
                os.chown(path, 65534, 65534)
            os.chmod(tree, 0o700)
            os.chown(tree / "a", 65534, 65534)
            os.chmod(tree / "a", 0o700)
            os.chown(inner, 65534, 65534)
            os.chmod(tree / "a", 0)
            os.chmod(tree, 0)
            for parent in tmp_path.parents[:2]:
                parent.chmod(0o755)
            os.setresuid(65534, 65534, 65534)
        fsio.delete_tree(Step.DELETE, tree)

    Forked(run).result()
    assert not tree.exists()
    assert (outside / "kept").read_text(encoding="ascii") == "kept"


def test_two_deleters_of_one_tree(tmp_path: Path) -> None:
    """Two processes that delete the same trash at one moment both succeed."""
    tree = tmp_path / "tree"
    for number in range(40):
        (tree / str(number) / "x").mkdir(parents=True)
    with gates(2) as (waiting, start):

        def run() -> None:
            waiting.open()
            start.wait()
            fsio.delete_tree(Step.DELETE, tree)

        processes = [Forked(run) for _ in range(4)]
        waiting.wait(4)
        start.open(4)
        all_results(processes)
    assert not tree.exists()
