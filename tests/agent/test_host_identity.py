"""Who a host is: its name, its machine, and what becomes of a copy of its disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from envmgr.agent import identity, memory
from envmgr.agent.identity import Identity, Machine
from envmgr.agent.memory import Held, Memory
from envmgr.errors import UsageError
from envmgr.store import opening
from envmgr.store.layout import Layout

ONE = Machine("1" * 32, "boot", "one")
TWO = Machine("2" * 32, "boot", "two")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return opening.open_for_writing(tmp_path / "store")


def _settle(layout: Layout, machine: Machine, *, host_id: str | None = None, is_shared: bool = False) -> Identity:
    return identity.settle(layout, machine, host_id=host_id, is_shared=is_shared)


def test_a_host_keeps_its_first_name(layout: Layout) -> None:
    """The host name when it first joined stays its name; the setting wins; each start is another instance."""
    first = _settle(layout, ONE)
    assert (first.host, first.is_settled, first.store_id) == ("one", False, opening.store_id(layout))
    identity.keep(layout, first)
    renamed = Machine(ONE.id, "later", "renamed")
    again = _settle(layout, renamed)
    assert (again.host, again.is_settled, again.copied_from) == ("one", True, None)
    assert again.instance != first.instance
    assert _settle(layout, renamed, host_id="chosen").host == "chosen"
    assert not _settle(layout, renamed, host_id="chosen").is_settled
    assert identity.name_of(layout, renamed, None) == "one"


def test_a_name_with_a_suffix_is_kept_under_its_setting(layout: Layout) -> None:
    """A host that had to take `node-1a2b3c` for the setting `node` is that again after a restart."""
    identity.keep(layout, Identity("node-111111", ONE, "s", "i", is_settled=True))
    assert _settle(layout, ONE, host_id="node").host == "node-111111"
    identity.keep(layout, Identity("node-2", ONE, "s", "i", is_settled=True))
    assert _settle(layout, ONE, host_id="node").host == "node"


def test_a_copied_disk_is_another_host_with_another_store(layout: Layout, tmp_path: Path) -> None:
    """The copy has its own name and a new store id, and remembers what the cluster had brought; the original stays."""
    identity.keep(layout, _settle(layout, ONE))
    memory.write(layout, ONE, Memory(uuid="u", environments={"env-x": Held(generation=1, lock_generation=1)}))
    shutil.copytree(layout.root, tmp_path / "copy")
    copy = Layout(tmp_path / "copy")
    found = _settle(copy, TWO)
    assert (found.host, found.is_settled, found.copied_from) == ("two", False, "one")
    assert found.store_id == opening.store_id(copy) != opening.store_id(layout)
    assert memory.read(copy, TWO).environments.keys() == {"env-x"}
    identity.keep(copy, found)
    assert _settle(copy, TWO).copied_from is None
    assert opening.store_id(copy) == found.store_id
    assert _settle(layout, ONE).host == "one"


def test_a_copy_that_was_stopped_before_it_was_settled(layout: Layout) -> None:
    """Between the new id and the end of it, the next start begins anew, and the store has some id of its own."""
    identity.keep(layout, _settle(layout, ONE))
    before = opening.store_id(layout)
    (identity.directory(layout, ONE) / "identity.json").unlink()
    opening.renew_store_id(layout)
    found = _settle(layout, TWO)
    assert found.host == "two"
    assert opening.store_id(layout) != before


def test_hosts_of_a_shared_store_are_no_copies(layout: Layout) -> None:
    """Each has a name of its own beside the others', and the store keeps its id."""
    before = opening.store_id(layout)
    identity.keep(layout, _settle(layout, ONE, is_shared=True))
    identity.keep(layout, _settle(layout, TWO, is_shared=True))
    assert _settle(layout, ONE, is_shared=True).host == "one"
    assert _settle(layout, TWO, is_shared=True).host == "two"
    assert opening.store_id(layout) == before


def test_a_store_made_anew_keeps_the_name_while_the_machine_runs(tmp_path: Path) -> None:
    """The name is kept outside of the root, too, for the length of the machine's boot."""
    layout, outside = opening.open_for_writing(tmp_path / "store"), tmp_path / "run"
    identity.keep(layout, _settle(layout, ONE), outside)
    shutil.rmtree(layout.root)
    opening.open_for_writing(layout.root)
    renamed = Machine(ONE.id, "boot", "renamed")
    assert identity.settle(layout, renamed, host_id=None, is_shared=False, outside=outside).host == "one"
    assert identity.settle(layout, TWO, host_id=None, is_shared=False, outside=outside).host == "two"


def test_the_machines_own_id_is_not_told(tmp_path: Path) -> None:
    """What crosses the network is a hash; without an id the host name stands in for it."""
    (tmp_path / "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    found = identity.machine("a", etc=tmp_path)
    assert len(found.id) == 32
    assert "0123456789" not in found.id
    assert found == identity.machine("a", etc=tmp_path)
    assert identity.machine("b", etc=tmp_path).id == found.id
    (tmp_path / "machine-id").write_text("uninitialized\n")
    assert identity.machine("a", etc=tmp_path).id != identity.machine("b", etc=tmp_path).id


@pytest.mark.parametrize("word", ["a/b", "", ".", "..", "-a", "ä", "a b", "x" * 300])
def test_what_cannot_name_a_host_is_refused(layout: Layout, word: str) -> None:
    """A host's name is a part of a path in ZooKeeper."""
    if word:
        with pytest.raises(UsageError, match="host_id"):
            _settle(layout, ONE, host_id=word)
    assert _settle(layout, Machine(ONE.id, "", word or "_")).host != ""


def test_a_damaged_memory_is_none(layout: Layout) -> None:
    """A host that cannot read what it remembered knows nothing, and so removes nothing."""
    memory.write(layout, ONE, Memory(uuid="u"))
    (identity.directory(layout, ONE) / "cluster.json").write_text("{")
    assert memory.read(layout, ONE) == Memory()
