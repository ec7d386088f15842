"""Stores with and without a daemon, of a user without settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import daemon_process
import pytest
from daemon_process import Place


@pytest.fixture(scope="module", autouse=True)
def _no_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for key in [key for key in os.environ if key.startswith(("ENVMGR_", "CONDA_", "PIP_", "XDG_"))]:
            patch.delenv(key)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Place]:
    """A store of this test's own with its daemon."""
    with daemon_process.place(tmp_path) as place:
        yield place
