"""`envmgr.ensure` with an alias."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fakes.worlds import World, make_world, spec_of

import envmgr
from envmgr import names
from envmgr.events import Event

OTHER = "channels: [nodefaults]\ndependencies: [scipy]\n"


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A store in which ``prod`` stands for an environment that is there."""
    world = make_world(tmp_path)
    world.manager().ensure(spec_of("numpy"), alias=names.alias("prod")).lease.close()
    return world


@pytest.mark.parametrize(
    ("alias", "error"), [("prod", envmgr.AliasTaken), ("no/alias", envmgr.UsageError)], ids=["taken", "malformed"]
)
def test_an_alias_that_cannot_be_had_costs_no_build(world: World, alias: str, error: type[Exception]) -> None:
    """An alias that stands for another environment, or is none, is refused before anything is built."""
    told: list[Event] = []
    before = os.listdir(world.layout.builds)
    with pytest.raises(error, match=alias):
        envmgr.ensure(OTHER, alias=alias, root=world.root, on_progress=told.append)
    assert told == []
    assert os.listdir(world.layout.builds) == before


def test_an_alias_whose_environment_is_gone(world: World) -> None:
    """The error names what the alias stands for."""
    name = spec_of("numpy").name
    world.manager().remove(name)
    with pytest.raises(envmgr.EnvironmentNotFound, match=f"prod stands for {name}"):
        envmgr.ensure("prod", root=world.root)


def test_what_is_ready_gets_its_alias(world: World) -> None:
    """The spec, and the name, of an environment that is there get an alias that is free, and keep one they have."""
    spec = spec_of("numpy")
    for word, alias in ((spec.name, "first"), (spec.source_text, "second"), (spec.source_text, "prod")):
        envmgr.ensure(word, alias=alias, root=world.root).close()
    assert world.manager().aliases() == dict.fromkeys(("first", "second", "prod"), spec.name)
