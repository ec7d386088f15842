"""A fresh store for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from envmgr.store import opening
from envmgr.store.layout import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return opening.open_for_writing(tmp_path / "store")
