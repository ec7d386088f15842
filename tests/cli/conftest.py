"""A store for each test."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Cli, bare


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """A store without environments, of a user without settings."""
    return bare(tmp_path, monkeypatch)
