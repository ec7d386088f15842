"""A model of the store: whatever order the calls come in, the store says what a dictionary says."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from fakes.backend import Orders
from fakes.worlds import World, make_world, spec_of
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from envmgr import ready
from envmgr.errors import AliasTaken, EnvironmentInUse, EnvironmentNotFound
from envmgr.manager.manager import Manager
from envmgr.names import Alias, BuildId, EnvName
from envmgr.store import opening, publication, sweep

SPECS = [spec_of("numpy"), spec_of("zlib"), spec_of("numpy", "zlib")]
ALIASES = [Alias("training"), Alias("serving")]
spec_numbers = st.sampled_from(range(len(SPECS)))
aliases = st.sampled_from(ALIASES)


class StoreModel(RuleBasedStateMachine):
    """`published` is what each name leads to; `leases` counts who uses which build."""

    leases = Bundle("leases")

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="envmgr-model-"))
        self.world: World = make_world(self.directory)
        self.manager: Manager = self.world.manager()
        self.version = 1
        self.published: dict[EnvName, tuple[BuildId, int]] = {}
        self.locked: dict[EnvName, int] = {}
        self.aliases: dict[Alias, EnvName] = {}
        self.pinned: set[EnvName] = set()
        self.known: set[EnvName] = set()
        self.used: dict[BuildId, int] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.directory)

    @rule()
    def reopen(self) -> None:
        opening.open_for_writing(self.world.root)
        self.manager = self.world.manager()

    @rule()
    def a_new_version_appears(self) -> None:
        self.version += 1
        Orders(self.world.orders).say("version", f"{self.version}.0")

    @rule(number=spec_numbers, target=leases)
    def create(self, number: int) -> ready.Lease:
        name = SPECS[number].name
        ensured = self.manager.ensure(SPECS[number])
        assert ensured.was_built == (name not in self.published)
        version = self.locked.setdefault(name, self.version)
        self.published.setdefault(name, (ensured.lease.build_id, version))
        assert self.published[name][0] == ensured.lease.build_id
        self.known.add(name)
        self._use(ensured.lease)
        return ensured.lease

    def _use(self, lease: ready.Lease) -> None:
        self.used[lease.build_id] = self.used.get(lease.build_id, 0) + 1

    @rule(number=spec_numbers, alias=st.none() | aliases)
    def look(self, number: int, alias: Alias | None) -> None:
        name = SPECS[number].name if alias is None else self.aliases.get(alias)
        lease = ready.acquire(str(self.world.root), alias or SPECS[number].name)
        expected = self.published.get(name) if name is not None else None
        assert (lease is None) == (expected is None)
        if lease is not None and expected is not None:
            assert lease.build_id == expected[0]
            lease.close()

    @rule(lease=consumes(leases))
    def close(self, lease: ready.Lease) -> None:
        text = Path(lease.prefix, "conda-meta").is_dir()
        assert text, "a leased build is on disk"
        self.used[lease.build_id] -= 1
        lease.close()

    @rule(number=spec_numbers, forget=st.booleans())
    def remove(self, number: int, *, forget: bool) -> None:
        name = SPECS[number].name
        if name not in self.published:
            if forget and name in self.known:
                assert self.manager.remove(name, forget=True).is_deleted
                self._forget(name)
            else:
                with pytest.raises(EnvironmentNotFound):
                    self.manager.remove(name, forget=forget)
            return
        if self.used.get(self.published[name][0]):
            with pytest.raises(EnvironmentInUse):
                self.manager.remove(name, forget=forget)
            return
        assert self.manager.remove(name, forget=forget).is_deleted
        del self.published[name]
        if forget:
            self._forget(name)

    def _forget(self, name: EnvName) -> None:
        self.known.discard(name)
        self.pinned.discard(name)
        self.locked.pop(name, None)

    @rule(number=spec_numbers)
    def remove_when_free(self, number: int) -> None:
        name = SPECS[number].name
        if name not in self.published:
            with pytest.raises(EnvironmentNotFound):
                self.manager.remove(name, when_free=True)
            return
        build, _ = self.published.pop(name)
        assert self.manager.remove(name, when_free=True).is_deleted == (not self.used.get(build))

    @rule(number=spec_numbers)
    def relock(self, number: int) -> None:
        name = SPECS[number].name
        if name not in self.published:
            with pytest.raises(EnvironmentNotFound):
                self.manager.relock(name)
            return
        build, version = self.published[name]
        replaced = self.manager.relock(name)
        assert replaced.is_new == (version != self.version)
        assert replaced.old_build_id == build
        self.published[name] = (replaced.record.build_id, self.version)
        if replaced.is_new:
            self.locked[name] = self.version
        else:
            assert replaced.record.build_id == build

    @precondition(lambda self: bool(self.published))
    @rule(data=st.data())
    def repair(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.published)))
        replaced = self.manager.repair(name)
        assert replaced.record.build_id != self.published[name][0]
        self.published[name] = (replaced.record.build_id, self.locked[name])

    @rule(alias=aliases, number=spec_numbers, move=st.booleans())
    def set_alias(self, alias: Alias, number: int, *, move: bool) -> None:
        name = SPECS[number].name
        if name not in self.published:
            with pytest.raises(EnvironmentNotFound):
                self.manager.set_alias(alias, name, move=move)
        elif not move and self.aliases.get(alias, name) != name:
            with pytest.raises(AliasTaken):
                self.manager.set_alias(alias, name)
        else:
            self.manager.set_alias(alias, name, move=move)
            self.aliases[alias] = name

    @rule(alias=aliases)
    def remove_alias(self, alias: Alias) -> None:
        if alias in self.aliases:
            assert self.manager.remove_alias(alias) == self.aliases.pop(alias)
        else:
            with pytest.raises(EnvironmentNotFound):
                self.manager.remove_alias(alias)

    @rule(number=spec_numbers, is_pinned=st.booleans())
    def pin(self, number: int, *, is_pinned: bool) -> None:
        name = SPECS[number].name
        if name not in self.known:
            with pytest.raises(EnvironmentNotFound):
                self.manager.pin(name, is_pinned=is_pinned)
            return
        self.manager.pin(name, is_pinned=is_pinned)
        (self.pinned.add if is_pinned else self.pinned.discard)(name)

    @rule()
    def collect(self) -> None:
        self.manager.collect()
        kept = {build for build, _ in self.published.values()} | {build for build, count in self.used.items() if count}
        assert set(sweep.all_builds(self.world.layout)) == kept
        assert os.listdir(self.world.layout.trash) == []

    @invariant()
    def the_store_says_the_same(self) -> None:
        layout = self.world.layout
        assert publication.published(layout) == {name: build for name, (build, _) in self.published.items()}
        assert publication.all_aliases(layout) == self.aliases
        assert publication.foreign(layout) == ()
        for info in self.manager.list():
            assert info.name in self.known
            assert info.is_pinned == (info.name in self.pinned)
            assert (info.state == "ready") == (info.name in self.published)
        for name, (build, version) in self.published.items():
            first = layout.build(build).prefix(name) / "share"
            for package in first.iterdir():
                assert package.read_text(encoding="utf-8") == f"{package.name} {version}.0\n"
        for build, count in self.used.items():
            assert not count or layout.build(build).directory.is_dir()


StoreModel.TestCase.settings = settings(
    derandomize=True, max_examples=60, stateful_step_count=25, deadline=None, database=None
)
TestStoreModel = pytest.mark.slow(StoreModel.TestCase)
