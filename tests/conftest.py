"""What many tests share: the demo channel, a store that uses it, and an environment that is ready."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from places import CHECKOUT, QUICKSTART

import envmgr


@pytest.fixture(scope="session", autouse=True)
def _signals() -> None:
    """Start programs as a terminal does: whoever runs the tests in the background may have these signals ignored."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@pytest.fixture(scope="session")
def demo_channel() -> str:
    """The URL of a real channel with this Python; kept in the checkout, so that it is made once."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    made = subprocess.run(
        [CHECKOUT / "scripts" / "demo_channel", CHECKOUT / ".test-channel" / version, "--python", sys.executable],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return made.stdout.splitlines()[-1]


@pytest.fixture(scope="session")
def make_store(demo_channel: str) -> Callable[[Path], Path]:
    """Make the root of a personal store whose default channel is the demo channel."""

    def make(root: Path) -> Path:
        root.mkdir(parents=True)
        (root / "settings.toml").write_text(
            f'default_channels = ["{demo_channel}"]\nuse_condarc = false\nmin_free_bytes = 0\nmin_free_inodes = 0\n'
        )
        return root

    return make


@pytest.fixture
def store(make_store: Callable[[Path], Path], tmp_path: Path) -> Path:
    """The root of a store of this test's own."""
    return make_store(tmp_path / "store")


@pytest.fixture(scope="session")
def ready_store(make_store: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a store in which the quickstart environment is ready; tests may use but not change it."""
    root = make_store(tmp_path_factory.mktemp("ready") / "store")
    envmgr.ensure(QUICKSTART, root=root, alias="quickstart").close()
    return root


@pytest.fixture
def quickstart(ready_store: Path) -> Iterator[envmgr.Environment]:
    """The quickstart environment, leased."""
    with envmgr.ensure(QUICKSTART, root=ready_store) as environment:
        yield environment


@pytest.fixture
def clean_environ() -> dict[str, str]:
    """The variables of a process without anything of this one's environment manager or Python."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("ENVMGR_", "CONDA_", "PYTHON"))}
