"""A simulated host with a daemon: what is started there, what stands on its disk, and where its backend is stopped."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from answers import Answer
from fakes.backend import Orders

from envmgr.names import EnvName
from hosts.namespaces import Host
from hosts.programs import Process

if TYPE_CHECKING:
    from hosts.clusters import Cluster

T = TypeVar("T")

ROOT = "/var/lib/envmgr"
LIMIT_S = 60.0
_PAUSE_S = 0.05


def until(condition: Callable[[], T], what: Callable[[], object] | str = "", limit_s: float = LIMIT_S) -> T:
    """Wait until a condition holds and return it; `what` is said if it never does."""
    end = time.monotonic() + limit_s
    while not (found := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"after {limit_s:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(_PAUSE_S)
    return found


class Stop:
    """A point in the backend of one host where all work stands still while it is closed."""

    def __init__(self, orders: Path) -> None:
        self._fifo = orders / "hang"

    @property
    def is_closed(self) -> bool:
        return self._fifo.exists()

    def close(self) -> None:
        os.mkfifo(self._fifo)

    def open(self) -> None:
        """Let go who stands still and who comes."""
        if self.is_closed:
            fd = os.open(self._fifo, os.O_RDWR)
            os.write(fd, b"\n")
            self._fifo.unlink()
            os.close(fd)


class Node:
    """A host with a daemon; `orders` are its backend's.

    `solves` stops it in the middle of a solve, `builds` when a lockfile is in force and nothing is installed yet.
    """

    def __init__(self, cluster: Cluster, host: Host, *, is_real: bool = False) -> None:
        self._cluster = cluster
        self._is_real = is_real
        self.host = host
        self.name = host.name
        self.root = host.disk
        """The store, as it is seen from outside."""
        self.inner_root = ROOT
        self.variables: dict[str, str] = {}
        self.orders = Orders(host.directory / "orders")
        (self.orders.directory / "solve").mkdir(parents=True)
        self.solves = Stop(self.orders.directory / "solve")
        self.builds = Stop(self.orders.directory)
        # Another solve would show: each host finds another version of everything.
        self.orders.say("version", f"1.{len(cluster.nodes)}")
        self._mount: list[str] = []
        self.daemon: Process | None = None
        self._heard: socket.socket
        self._runs = 0

    def configure(self, settings: Mapping[str, object]) -> None:
        """Write the settings that the next start finds."""
        lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
        (self.root / "settings.toml").write_text(lines)

    def environ(self) -> dict[str, str]:
        self._runs += 1
        found = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.host.directory),
            "ENVMGR_ROOT": self.inner_root,
            "HISTORY": str(self._cluster.histories / f"{self.name}.jsonl"),
            "HISTORY_HOST": self.name,
            "HISTORY_RUN": f"{self.name}/{self._runs}",
            **({} if self._is_real else {"FAKE_ORDERS": str(self.orders.directory)}),
            **self.variables,
        }
        return {**found, **({"PYTHONPATH": os.environ["PYTHONPATH"]} if "PYTHONPATH" in os.environ else {})}

    def share(self, directory: Path, *options: str) -> None:
        """Have the store of a directory that other hosts mount, too, by a process of this host's own (bindfs)."""
        self.root = directory
        self.variables["STORE_SHARED"] = "1"
        self._mount = ["bindfs", "--multithreaded", *options, str(directory), ROOT]
        (self.host.disk / "settings.toml").unlink()
        self.host.run(*self._mount)
        self.configure(self._cluster.settings)

    def boot(self) -> None:
        """Switch the host on; its daemon does not run yet."""
        self.host.boot()
        if self._mount:
            self.host.run(*self._mount)

    # ------------------------------------------------------------------------------------------------------ the daemon

    def start(self) -> Node:
        """Start the daemon and wait until it is ready."""
        self.launch()
        return self.wait_up()

    def launch(self) -> None:
        """Start the daemon; `wait_up` waits for it."""
        notices = self.host.directory / "notify"
        notices.unlink(missing_ok=True)
        self._heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._heard.bind(str(notices))
        environ = {**self.environ(), "NOTIFY_SOCKET": str(notices)}
        with (self.host.directory / "daemon.log").open("ab") as log:
            words = ["envmgr", "daemon"]
            self.daemon = self._cluster.programs.start(self.host, words, environ, stdout=log, stderr=log)

    def wait_up(self) -> Node:
        end = time.monotonic() + LIMIT_S
        with self._heard as heard:
            while self.is_running and time.monotonic() < end:
                if select.select([heard], [], [], _PAUSE_S)[0] and b"READY=1" in heard.recv(1 << 16):
                    return self
        raise RuntimeError(f"the daemon of {self.name} does not come up: {self.words[-3000:]}")

    @property
    def is_running(self) -> bool:
        return self.daemon is not None and self.daemon.is_running

    @property
    def words(self) -> str:
        """What its daemons said."""
        return (self.host.directory / "daemon.log").read_text()

    def kill(self) -> None:
        """Kill the daemon."""
        self._doom()
        if self.daemon is not None:
            self.daemon.send(signal.SIGKILL)
            self.daemon.wait()

    def stop(self) -> int:
        """Have the daemon end, and return its exit code."""
        assert self.daemon is not None
        self._doom()  # what still goes on at its end, ends with it
        self.daemon.send(signal.SIGTERM)
        return self.daemon.wait()

    def power_off(self) -> None:
        """Switch the host off."""
        self._doom()
        self.host.power_off()
        if self.daemon is not None:
            self.daemon.wait()

    def _doom(self) -> None:
        for number in range(1, self._runs + 1):
            self._cluster.own.moment("doomed", run=f"{self.name}/{number}")

    def envmgr(self, *words: str, given: bytes = b"") -> Answer:
        """Run a command on this host."""
        with tempfile.TemporaryDirectory(dir=self.host.directory) as directory:
            return self._cluster.programs.run(self.host, ["envmgr", *words], self.environ(), Path(directory), given)

    @contextlib.contextmanager
    def running(self, *words: str, given: bytes = b"") -> Iterator[Process]:
        """Have a command run on this host for the length of a block; what it says goes to the daemon's log."""
        with tempfile.TemporaryFile() as stdin, (self.host.directory / "daemon.log").open("ab") as log:
            stdin.write(given)
            stdin.seek(0)
            process = self._cluster.programs.start(
                self.host, ["envmgr", *words], self.environ(), stdin=stdin, stdout=log, stderr=log
            )
        try:
            yield process
        finally:
            process.send(signal.SIGTERM)
            process.wait()

    @contextlib.contextmanager
    def leasing(self, name: EnvName) -> Iterator[Process]:
        """Have a process of this host hold a lease for the length of a block."""
        told, tell = os.pipe()
        hear, said = os.pipe()
        try:
            process = self._cluster.programs.start(
                self.host, ["lease", self.inner_root, name], self.environ(), stdin=told, stdout=said
            )
            os.close(said)
            if os.read(hear, 100) != b"leased\n":
                raise LookupError(f"{name} is not on {self.name}")
            yield process
        finally:
            os.close(tell)
            os.close(told)
            os.close(hear)
        process.wait()

    # ---------------------------------------------------------------------------------------------------- what is there

    def digest(self, name: EnvName) -> str | None:
        """Return the digest of the lockfile from which an environment is made here, ``None`` if it is not there."""
        try:
            build = os.readlink(self.root / "envs" / name).split("/")[2]
            record = json.loads((self.root / "builds" / build / "record.json").read_bytes())
        except FileNotFoundError:
            return None
        return str(record["lock_digest"])

    def leftovers(self) -> list[str]:
        """Return the builds that no name leads to, and what lies in the trash."""
        kept = {os.readlink(entry).split("/")[2] for entry in (self.root / "envs").iterdir() if len(entry.name) == 20}
        builds = [f"{self.name}: build {entry}" for entry in os.listdir(self.root / "builds") if entry not in kept]
        return [*builds, *(f"{self.name}: trash {entry}" for entry in os.listdir(self.root / "trash"))]

    def strangers(self) -> list[str]:
        """Return what runs on the host beside the daemon and what mounts its disk."""
        own = None if self.daemon is None else self.daemon.pid
        return [words for pid, words in self.host.processes().items() if pid != own and not words.startswith("bindfs ")]
