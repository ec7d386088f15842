"""Real ZooKeeper servers from Debian's package (``libzookeeper-java``), for tests, benchmarks and soaking.

No service, nothing in /etc, no root: each server is a child process with its data below one temporary directory, and
dies with the thread that started it. ::

    with Servers(3) as servers:
        servers.connect             # 127.0.0.1:21001,127.0.0.1:21002,…
        servers.kill(servers.leader())

They are quick rather than safe: nothing is synced to disk, so an ensemble whose processes are all killed keeps what it
had, and one whose machine fails does not. Ports are taken at random outside the kernel's range for outgoing
connections and Ray's for its workers; a port that somebody takes in between is noticed when the server ends, and the
next try takes others.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import final

JARS = Path("/usr/share/java")
_CLASS_PATH = ("zookeeper", "slf4j-simple", "netty-codec", "netty-resolver", "netty-transport-native-unix-common")
_JVM = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-Dzookeeper.jmx.log4j.disable=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Djava.net.preferIPv4Stack=true",
)
_PORTS = range(20_000, 30_000)
_START_S = 30.0
_PAUSE_S = 0.02
_ANSWER_S = 2.0


class ServersError(Exception):
    """The servers cannot run here, or one ended; the text says why."""


def missing() -> str | None:
    """Say what this machine lacks for running ZooKeeper, or return ``None``."""
    if shutil.which("java") is None:
        return "ZooKeeper needs Java: apt-get install default-jre-headless"
    if not (JARS / "zookeeper.jar").exists():
        return "ZooKeeper is not there: apt-get install --no-install-recommends libzookeeper-java libslf4j-java"
    return None


@final
class Servers:
    """An ensemble of `count` servers (1: standalone), numbered from 0.

    `address` and `prefix` put a server somewhere else than on loopback: its IP address, and the words before its
    command (``nsenter …``). `lines` are more lines of its configuration, `java` more options of its virtual machine.
    """

    def __init__(
        self,
        count: int = 3,
        *,
        tick_ms: int = 200,
        session_ms: tuple[int, int] = (400, 60_000),
        address: Callable[[int], str] = lambda _number: "127.0.0.1",
        prefix: Callable[[int], Sequence[str]] = lambda _number: (),
        lines: Callable[[int], Sequence[str]] = lambda _number: (),
        java: Sequence[str] = ("-Xms16m", "-Xmx96m"),
        directory: Path | None = None,
    ) -> None:
        self.count = count
        self.directory = Path(tempfile.mkdtemp(prefix="zookeeper-", dir=directory))
        self._tick_ms = tick_ms
        self._session_ms = session_ms
        self._address = address
        self._prefix = prefix
        self._lines = lines
        self._java = tuple(java)
        self._processes: list[subprocess.Popen[bytes] | None] = [None] * count
        self._ports: list[tuple[int, int, int]] = []

    def __enter__(self) -> Servers:
        try:
            self.start_all()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @property
    def addresses(self) -> tuple[str, ...]:
        """``host:port`` of each server, for clients."""
        return tuple(f"{self._address(number)}:{self._ports[number][0]}" for number in range(self.count))

    @property
    def connect(self) -> str:
        return ",".join(self.addresses)

    def start_all(self) -> None:
        """Start every server with ports of its own and wait until they serve; raises `ServersError`."""
        if (lack := missing()) is not None:
            raise ServersError(lack)
        for tries_left in (2, 1, 0):
            self._configure()
            for number in range(self.count):
                self.start(number)
            try:
                return self.wait()
            except ServersError:
                self.kill_all()
                if not tries_left:
                    raise
        return None

    def start(self, number: int) -> None:
        """Start one server again, on its old ports and data; does not wait."""
        directory = self._directory(number)
        class_path = ":".join(str(JARS / f"{jar}.jar") for jar in _CLASS_PATH)
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        # The server may not outlive whoever started it, even one that was killed.
        begin = [*self._prefix(number), "setpriv", "--pdeathsig", "KILL", "java", *_JVM, *self._java]
        with (directory / "log").open("ab") as log:
            self._processes[number] = subprocess.Popen(
                [*begin, "-cp", class_path, main, directory / "zoo.cfg"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self, least: int | None = None) -> None:
        """Wait until so many servers (default: all) serve, a leader among them; raises `ServersError`."""
        needed, deadline = least or self.count, time.monotonic() + _START_S
        while True:
            modes = [self.mode(number) for number in range(self.count)]
            if sum(mode is not None for mode in modes) >= needed and {"leader", "standalone"} & {*modes}:
                return
            for number, process in enumerate(self._processes):
                if process is not None and process.poll() is not None:
                    raise ServersError(f"server {number} ended: {self.log(number)[-2000:]}")
            if time.monotonic() > deadline:
                raise ServersError(f"the servers do not serve after {_START_S:g} s: {modes}")
            time.sleep(_PAUSE_S)

    def mode(self, number: int) -> str | None:
        """Return ``leader``, ``follower`` or ``standalone``; ``None`` for one that does not serve."""
        with contextlib.suppress(OSError):
            for line in self.ask(number, "srvr").splitlines():
                if line.startswith("Mode:"):
                    return line.split()[1]
        return None

    def leader(self) -> int:
        """Return the number of the server that leads; raises `ServersError` when none does."""
        for number in range(self.count):
            if self.mode(number) in {"leader", "standalone"}:
                return number
        raise ServersError("no server leads")

    def ask(self, number: int, word: str) -> str:
        """Return a server's answer to a four-letter word (``srvr``, ``mntr``, ``wchs``); raises `OSError`."""
        with socket.create_connection((self._address(number), self._ports[number][0]), _ANSWER_S) as connection:
            connection.sendall(word.encode())
            answer = b""
            while block := connection.recv(1 << 16):
                answer += block
        return answer.decode()

    def pid(self, number: int) -> int | None:
        process = self._processes[number]
        return None if process is None else process.pid

    def signal(self, number: int, what: signal.Signals) -> None:
        """Send a signal (stop it, let it go on) to a server that runs; one that is stopped stands still on return."""
        process = self._processes[number]
        if process is not None:
            os.killpg(process.pid, what)
            while what == signal.SIGSTOP and not _stands_still(process.pid):
                time.sleep(_PAUSE_S / 10)

    def kill(self, number: int) -> None:
        """Kill a server, if it runs, and wait until it is gone; its data stay."""
        process = self._processes[number]
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self._processes[number] = None

    def kill_all(self) -> None:
        for number in range(self.count):
            self.kill(number)

    def log(self, number: int) -> str:
        """Return what a server said."""
        return (self._directory(number) / "log").read_text("utf-8", "replace")

    def close(self) -> None:
        """Kill all servers and delete their data."""
        self.kill_all()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _directory(self, number: int) -> Path:
        return self.directory / f"server-{number}"

    def _configure(self) -> None:
        ports = _free_ports(3 * self.count)
        self._ports = list(zip(ports[::3], ports[1::3], ports[2::3], strict=True))
        ensemble = [
            f"server.{number + 1}={self._address(number)}:{quorum}:{election}"
            for number, (_, quorum, election) in enumerate(self._ports)
        ]
        for number in range(self.count):
            directory = self._directory(number)
            (directory / "data").mkdir(parents=True, exist_ok=True)
            (directory / "data" / "myid").write_text(f"{number + 1}\n")
            lines = [
                f"tickTime={self._tick_ms}",
                "initLimit=50",
                "syncLimit=20",
                f"minSessionTimeout={self._session_ms[0]}",
                f"maxSessionTimeout={self._session_ms[1]}",
                f"dataDir={directory / 'data'}",
                f"clientPort={self._ports[number][0]}",
                f"clientPortAddress={self._address(number)}",
                "admin.enableServer=false",
                "4lw.commands.whitelist=*",
                "maxClientCnxns=0",
                "forceSync=no",
                "preAllocSize=4096",
                *(ensemble if self.count > 1 else ()),
                *self._lines(number),
            ]
            (directory / "zoo.cfg").write_text("\n".join(lines) + "\n")


def _stands_still(pid: int) -> bool:
    """Tell whether all threads of a process are stopped, or it has ended: each stops by itself, after the signal."""
    for thread in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if thread.read_text("utf-8").rpartition(")")[2].split()[0] not in "TtZX":
                return False
    return True


def _free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody listens on now."""
    found: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise ServersError("no free ports")
