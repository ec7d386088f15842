"""The site where runners are tested: Ray, Spark, MLflow and pyjava in one environment, kept in the checkout."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import example_site
import pytest
from example_site import Site
from places import CHECKOUT
from program_store import Programs

SETTINGS = 'default_channels = ["{}"]\nuse_condarc = false\nmin_free_bytes = 0\nmin_free_inodes = 0\n'


@pytest.fixture(scope="session")
def site(demo_channel: str) -> Iterator[Site]:
    """The site; made once, which takes more than a minute."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = example_site.prepare(CHECKOUT / ".test-site" / version, SETTINGS.format(demo_channel))
    with found.environment:
        yield found


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home directory of this test's own, with a short path."""
    return tmp_path_factory.mktemp("h")


@pytest.fixture
def user(site: Site, store: Path, home: Path) -> dict[str, str]:
    """The variables of somebody at the site, with an empty store."""
    return site.variables(root=store, home=home)


@pytest.fixture
def run_example(site: Site, user: dict[str, str], tmp_path: Path) -> Callable[..., str]:
    """Run an example, in an empty store; it must succeed and print what it is expected to. Returns what it printed."""

    def run(name: str, *, timeout_s: float = 200) -> str:
        done = example_site.run(name, user, tmp_path / "work", timeout_s=timeout_s)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        expected = (example_site.EXAMPLES / name / "expected.txt").read_text(encoding="utf-8")
        missing = example_site.lacking(expected, done.stdout)
        assert missing is None, f"no line like {missing!r} in\n{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """A store with one small environment; tests may use but not change it."""
    made = Programs(tmp_path_factory.mktemp("programs"))
    made.make()
    yield made
    made.clear()
