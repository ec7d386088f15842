"""A Ray cluster of two raylets on this machine, and programs that run on it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PLUGINS = '[{"class": "envmgr.runners.ray.EnvmgrPlugin"}]'
_START_S = 120.0
_STOP_S = 20.0


class Node:
    """``ray start --block``, and all that it starts."""

    def __init__(self, log: Path, variables: Mapping[str, str], *arguments: str) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                ["ray", "start", "--block", "--num-cpus=1", "--object-store-memory=100000000", *arguments],
                env=variables,
                cwd=log.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + _START_S
        while b"Ray runtime started" not in self._log.read_bytes():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_S)
        # What is left of its session: Ray's processes are all in it.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Cluster:
    """Two raylets, with a resource ``n1`` and ``n2`` each, to say where a task runs; `directory` has a short path."""

    def __init__(self, directory: Path, variables: Mapping[str, str]) -> None:
        self.directory = directory
        self.variables = dict(variables)
        self._nodes: list[Node] = []
        self.port, self.client_port, dashboard, *self._ports = free_ports(12)
        self._dashboard = dashboard

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def client(self) -> str:
        return f"ray://127.0.0.1:{self.client_port}"

    @property
    def logs(self) -> Path:
        return self.directory / "session_latest" / "logs"

    def start(self) -> None:
        first = Node(
            self.directory / "head.log", self.variables, "--head", f"--port={self.port}", "--node-ip-address=127.0.0.1",
            f"--ray-client-server-port={self.client_port}", f"--temp-dir={self.directory}",
            "--include-dashboard=false", '--resources={"n1": 100}',
        )  # fmt: skip
        self._nodes.append(first)
        first.wait_until_up()
        self.join("127.0.0.2", "n2", self.variables).wait_until_up()

    def join(self, address: str, resource: str, variables: Mapping[str, str]) -> Node:
        """Start one more raylet, with a resource of its own."""
        resources = json.dumps({resource: 100})
        node = Node(
            self.directory / f"{resource}.log", variables, f"--address={self.address}",
            f"--node-ip-address={address}", f"--resources={resources}",
        )  # fmt: skip
        self._nodes.append(node)
        return node

    def stop(self) -> None:
        while self._nodes:
            self._nodes.pop().stop()

    def run(
        self, program: Path | str, *arguments: str, timeout_s: float = 150, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a driver to its end; its program is a file or a text."""
        words = ["-c", program] if isinstance(program, str) else [str(program)]
        return subprocess.run(
            ["python", *words, *arguments],
            env={**self.variables, "RAY_ADDRESS": self.address, **variables},
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def answer(self, program: Path | str, *arguments: str, timeout_s: float = 150, **variables: str) -> Any:
        """Run a driver, which must succeed, and return the JSON that it prints last."""
        done = self.run(program, *arguments, timeout_s=timeout_s, **variables)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def running(directory: Path, variables: Mapping[str, str]) -> Iterator[Cluster]:
    """Run a cluster; on the way out nothing of it is left."""
    cluster = Cluster(directory, variables)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def free_ports(count: int) -> list[int]:
    """Return ports that nobody has now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
