"""A store for each test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from command_line import Cli


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """A store without environments, of a user without settings."""
    for key in [key for key in os.environ if key.startswith(("ENVMGR_", "CONDA_", "PIP_"))]:
        monkeypatch.delenv(key)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "orders").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "settings.toml").write_text(
        "use_condarc = false\nuse_pip_conf = false\nmin_free_bytes = 0\nmin_free_inodes = 0\n"
    )
    return Cli(tmp_path)
