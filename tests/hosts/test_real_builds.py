"""The main job: one declaration, real packages over HTTP, real builds; all hosts have the same bytes."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest

from hosts.clusters import Cluster
from hosts.nodes import Node

pytestmark = [pytest.mark.slow, pytest.mark.main_job]
_SPEC = b"name: rich\ndependencies:\n  - python\n  - rich\n"
_BYTECODE = "__pycache__"
_OF_THE_TIME = frozenset({"conda-meta/history"})
"""It says when the environment was made, as conda's own does."""


class _Server(ThreadingHTTPServer):
    """Counts what it gives of each archive."""

    def __init__(self, address: str, directory: str) -> None:
        self.given: list[str] = []
        super().__init__((address, 0), partial(_Handler, directory=directory))


class _Handler(SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, _Server)
        self.server.given.append(self.path)
        super().do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        """Say nothing."""


@pytest.fixture
def channel(cluster: Cluster, demo_channel: str) -> Iterator[_Server]:
    """The demo channel, beside the bridge."""
    with cluster.network.beside():
        server = _Server("10.99.0.254", url2pathname(urlsplit(demo_channel).path))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def make_cluster(new_cluster: Callable[..., Cluster]) -> Callable[[], Cluster]:
    """Make two hosts with the real builder; no daemon runs yet."""

    def make() -> Cluster:
        made = new_cluster(0, servers=1)
        for _ in range(2):
            made.add(is_real=True)
        return made

    return make


def content(node: Node, name: str) -> dict[str, str]:
    """Return the hash (or the target) of every file of an environment, byte-code apart, which holds no packages."""
    prefix = (node.root / "envs" / name).resolve()
    found = {}
    for path in prefix.rglob("*"):
        if _BYTECODE in path.parts or path.is_dir():
            continue
        data = str(path.readlink()).encode() if path.is_symlink() else path.read_bytes()
        found[str(path.relative_to(prefix))] = hashlib.sha256(data).hexdigest()
    return found


def packages(node: Node, name: str) -> list[tuple[str, str, str, str]]:
    """Return what conda would list, with the archives' hashes."""
    metas = (node.root / "envs" / name / "conda-meta").glob("*.json")
    found = (json.loads(path.read_bytes()) for path in metas)
    return sorted((it["name"], it["version"], it["build"], it["sha256"]) for it in found)


def test_every_host_has_the_same_packages_and_files(cluster: Cluster, channel: _Server) -> None:
    """One solve; the same packages by hash, and the same files by hash, on every host; jobs run there."""
    url = f"http://10.99.0.254:{channel.server_port}"
    for node in cluster.nodes.values():
        own = {"default_channels": [url], "archives_listen": f"{node.host.address}:7373"}
        node.configure({**cluster.settings, **own, "coordinator_wait_s": 30})
    cluster.start()
    answer = cluster[1].envmgr("cluster", "create", "-", "--wait", "--alias", "rich", "--json", given=_SPEC)
    assert answer.code == 0, answer.err
    name = cluster[0].envmgr("name", "-", given=_SPEC).out.strip()
    cluster.wait_ready(name)
    one, other = cluster.nodes.values()
    assert packages(one, name)
    assert packages(other, name) == packages(one, name)
    expected, found = content(one, name), content(other, name)
    assert len(expected) > 1000
    differing = {path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path)}
    assert differing <= _OF_THE_TIME
    archives = [path for path in channel.given if path.endswith((".conda", ".tar.bz2"))]
    assert len(archives) == len(set(archives)), "fetched more than once by the cluster"
    for node in cluster.nodes.values():
        path = node.host.run("/var/lib/envmgr/envs/rich/bin/python", "-c", "import rich; print(rich.__file__)")
        assert name in Path(path.strip()).parts
