"""What many tests share: the demo channel, a store that uses it, and an environment that is ready."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import zookeeper_servers
from places import CHECKOUT, QUICKSTART
from zookeeper_servers import Servers

import envmgr
from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.session import Session

# Other tests run beside these (scripts/test), so how long an example takes says nothing of the code.
hypothesis.settings.register_profile("beside", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("beside")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whatever uses ZooKeeper's servers is slow, before marks choose what runs: scripts/check starts no server."""
    for item in items:
        if {"zookeeper", "_ensemble", "secure"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


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


@pytest.fixture(scope="session")
def zookeeper() -> Iterator[Servers]:
    """One real ZooKeeper server on loopback, ticks of 200 ms; tests leave it as it is, each below a root of its own."""
    if (lack := zookeeper_servers.missing()) is not None:
        pytest.fail(f"{lack} (scripts/test installs it)")
    with Servers(1) as servers:
        yield servers


@pytest.fixture(scope="session")
def _ensemble() -> Iterator[Servers]:
    with Servers(3) as servers:
        yield servers


@pytest.fixture
def ensemble(_ensemble: Servers) -> Iterator[Servers]:
    """Three real ZooKeeper servers; a test may stop and kill them, and the next one finds them whole again."""
    yield _ensemble
    for number in range(_ensemble.count):
        _ensemble.signal(number, signal.SIGCONT)
        if _ensemble.pid(number) is None:
            _ensemble.start(number)
    _ensemble.wait()


@pytest.fixture
def tree_root() -> str:
    """A node of ZooKeeper that nobody else uses."""
    return f"/test-{uuid.uuid4().hex}"


@pytest.fixture
def endpoint(zookeeper: Servers, tree_root: str) -> Endpoint:
    """How to reach the one server, below a root of this test's own, in sessions of two seconds."""
    return Endpoint(servers=zookeeper.addresses, root=tree_root, session_s=2.0)


@pytest.fixture
def session(endpoint: Endpoint) -> Iterator[Session]:
    """A session with the real server, below a root of the test's own where nothing stands."""
    session = Session(endpoint)
    session.start()
    yield session
    session.close()
