"""A fresh store, a manager over the fake backend, and its orders."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.backend import Orders
from fakes.worlds import World, make_world


@pytest.fixture
def world(tmp_path: Path) -> World:
    return make_world(tmp_path, is_child=True)


@pytest.fixture
def orders(world: World) -> Orders:
    return Orders(world.orders)
