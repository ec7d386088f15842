"""What runs in the simulated hosts: ``envmgr`` with a backend under orders, writing the history of its host.

One process imports everything once and, for each order, forks a child that enters the namespaces of a host and runs
there: a daemon is up in a tenth of a second. An order is one message on the socket that is standard input, JSON with
four descriptors: standard input, output and error of the child, and a pipe that is told ``<pid>`` (in the namespace
of this process) and, at the end, the exit status; it ends with it all. When its socket ends, or its parent, this
process and all its children end.

``envmgr WORD…``      the command, as its users call it; variables:

    =================  ============================================================================================
    ``HISTORY``        the file of the host's history; ``HISTORY_HOST``, ``HISTORY_RUN``: see `hosts.history`
    ``FAKE_ORDERS``    the directory of the backend's orders (`fakes.backend`); those in its ``solve`` are followed
                       in the middle of a solve; without it the real backend works
    ``STORE_SHARED``   set where other hosts write the same store
    ``SOLVES_ALONE``   set where the setting ``solve_without_coordinator`` is
    ``PLANTED``        a bug: one of `_plant`, for the proof that the proof sees it
    =================  ============================================================================================

``lease ROOT NAME``   holds a lease until its standard input ends; says ``leased`` or ``none``

Time is quicker here in one respect: `_BACK_OFF_S` are the agent's first back-off and its longest.
"""

# ruff: noqa: T201 - standard output is how it speaks to the test

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pydantic.v1  # noqa: F401 - imported here so that no child does it, as all that is not used below
import uvicorn.lifespan.off
import uvicorn.protocols.http.auto  # noqa: F401
from fakes.backend import FakeBackend
from fakes.processes import die_with_parent

import envmgr.agent.reconcile
import envmgr.coordination.zookeeper.claims
import envmgr.coordination.zookeeper.coordinator
import envmgr.coordination.zookeeper.queues
import envmgr.daemon.member
import envmgr.daemon.server
import envmgr.wiring
from envmgr import fsio, ready
from envmgr.cli import main
from envmgr.coordination.zookeeper import tree
from envmgr.coordination.zookeeper.claims import Claim, Claims
from envmgr.events import Reporter
from envmgr.fsio import Point, Step
from envmgr.model import LockedPackage
from envmgr.ports import Deadline
from envmgr.store import leases, locks, usage
from envmgr.wire.pipe import BuildRequest, BuildResult
from hosts.history import Facts, Writer

_BACK_OFF_S = (0.5, 4.0)
_KINDS = ("pid", "net", "uts", "ipc", "mnt")
_MOST_BYTES = 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


# ------------------------------------------------------------------------------------------------------- the history


class Recorder:
    """Writes what this process does into the history of its host."""

    def __init__(self, history: Writer, *, is_shared: bool, may_differ: bool) -> None:
        self.history = history
        self._facts = {"is_shared": is_shared, "may_differ": may_differ}
        self._tokens: dict[str, int] = {}
        self._open = threading.local()

    def claim(self, path: str, token: int, is_held: bool) -> None:
        """Be told of each claim that was got or is given back."""
        key = path.partition("/claims/")[2]
        if is_held:
            self._tokens[key] = token
            self.history.moment("claimed", key=key, token=token)
        else:
            self._tokens.pop(key, None)

    def step(self, step: Step, point: Point) -> None:
        """Be told of each point of each durable step (`envmgr.fsio.observer`)."""
        if step not in (Step.PUBLISH, Step.REPUBLISH, Step.TRASH):
            return
        # The step is told without what it is done to: that stands in the frame of the function that does it.
        given = sys._getframe(2).f_locals
        if point == "before":
            is_trash = step is Step.TRASH
            self._open.end = self._trash(given["source"]) if is_trash else self._publish(given["path"], given["target"])
            self._open.facts = {}
        elif point == "changed" and step is not Step.TRASH:
            self._open.facts.update(_published(given["path"]))
        elif point == "after":
            self._open.end(self._open.facts)

    def _publish(self, path: Path, target: str) -> Callable[[Facts], None]:
        root = path.parent.parent
        store, build = store_id(root), target.split("/")[2]
        token = self._tokens.get(f"build/{store}/{path.name}")
        return self.history.begin("publish", store=store, name=path.name, build=build, token=token, **self._facts)

    def _trash(self, source: Path) -> Callable[[Facts], None]:
        return self.history.begin("delete", store=store_id(source.parent.parent), build=source.name)


def store_id(root: Path) -> str:
    return (root / "store-id").read_text(encoding="ascii").strip()


def _published(path: Path) -> Facts:
    """Return what stands under a name now, and in what it is not whole."""
    prefix = path.resolve()
    record = json.loads((prefix.parent.parent / "record.json").read_bytes())
    problems, packages = [], 0
    for meta in (prefix / "conda-meta").glob("*.json"):
        packages += 1
        for entry in json.loads(meta.read_bytes())["paths_data"]["paths"]:
            file = prefix / entry["_path"]
            if not file.is_file():
                problems.append(f"{entry['_path']} is missing")
            elif not file.is_symlink() and hashlib.sha256(file.read_bytes()).hexdigest() != entry["sha256_in_prefix"]:
                problems.append(f"{entry['_path']} is damaged")
    if packages != record["packages"]:
        problems.append(f"{packages} packages of {record['packages']}")
    return {
        "lock_digest": record["lock_digest"], "machine_class": record["machine_class"], "problems": problems
    }  # fmt: skip


class RecordedBackend(FakeBackend):
    """A backend under orders that writes down when it builds and solves."""

    def __init__(self, orders: Path, history: Writer) -> None:
        super().__init__(orders)
        self._history = history
        self._solving = FakeBackend(orders / "solve")
        self._now = threading.local()

    def build(
        self,
        request: BuildRequest,
        *,
        lease_fd: int,
        deadline: Deadline,
        report: Reporter,
        on_locked: Callable[[str], None],
    ) -> BuildResult:
        build_dir = Path(request.build_dir)
        self._now.deadline = deadline
        store = store_id(build_dir.parent.parent)
        with self._history.span("build", store=store, name=request.name, build=build_dir.name):
            return super().build(request, lease_fd=lease_fd, deadline=deadline, report=report, on_locked=on_locked)

    def _solve(self, request: BuildRequest) -> list[LockedPackage]:
        if request.lockfile is None:
            self._history.moment("solve", name=request.name)
            self._solving._follow_orders(self._now.deadline)
        return super()._solve(request)


# ------------------------------------------------------------------------------------------------- what a child does


def work(words: list[str]) -> int:
    """Do what an order says and return the exit code."""
    history = Writer(Path(os.environ["HISTORY"]), os.environ["HISTORY_HOST"], os.environ["HISTORY_RUN"])
    if words[0] == "lease":
        return _hold_lease(history, *words[1:])
    recorder = Recorder(history, is_shared="STORE_SHARED" in os.environ, may_differ="SOLVES_ALONE" in os.environ)
    fsio.observer = recorder.step
    envmgr.coordination.zookeeper.queues.observer = recorder.claim
    envmgr.agent.reconcile.FIRST_BACK_OFF_S, envmgr.agent.reconcile.LONGEST_BACK_OFF_S = _BACK_OFF_S
    _plant(os.environ.get("PLANTED"))
    orders = os.environ.get("FAKE_ORDERS")
    return main(words[1:], backend=None if orders is None else RecordedBackend(Path(orders), history))


def _hold_lease(history: Writer, root: str, name: str) -> int:
    lease = ready.acquire(root, name)
    if lease is None:
        print("none", flush=True)
        return 1
    with history.span("lease", store=store_id(Path(root)), build=lease.build_id):
        print("leased", flush=True)
        sys.stdin.read()
    lease.close()
    return 0


def _plant(bug: str | None) -> None:
    """Break what the proof must see broken."""
    if bug is None:
        return
    broken: tuple[object, str] = {
        "no build lock": (locks, "try_lock"),
        "no lease": (leases, "exclusive"),
        "no claim": (envmgr.coordination.zookeeper.claims.Claims, "acquire"),
    }[bug]
    setattr(*broken, _claim_of_nobody if bug == "no claim" else _granted)
    if bug == "no lease":
        usage.lock_holders = lambda _paths: {}  # who holds a lease is found twice


@contextlib.contextmanager
def _granted(*_whatever: object) -> Iterator[bool]:
    yield True


@contextlib.contextmanager
def _claim_of_nobody(claims: Claims, *_whatever: object, **_further: object) -> Iterator[Claim]:
    """Hold what was never acquired; what is written under it is guarded by a node that always stands."""
    yield Claim(claims._session, tree.CLUSTER, claims._session.epoch, 1)


# --------------------------------------------------------------------------------------------------- taking the orders


def serve(orders: socket.socket) -> None:
    """Fork a child for each order until there are no more."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that only wait for their child
    while True:
        data, descriptors, _, _ = socket.recv_fds(orders, _MOST_BYTES, 4)
        if not data:
            return
        if os.fork() == 0:
            orders.close()
            _enter(json.loads(data), *descriptors)
        for fd in descriptors:
            os.close(fd)


def _enter(order: Mapping[str, Any], stdin: int, stdout: int, stderr: int, told: int) -> NoReturn:
    """Run the child of an order in its host, and tell its pid and its end."""
    status = 1
    try:
        die_with_parent()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for fd in [os.open(f"/proc/{order['host']}/ns/{kind}", os.O_RDONLY) for kind in _KINDS]:
            if _libc.setns(fd, 0) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            os.close(fd)
        pid = os.fork()
        if pid == 0:
            os.close(told)
            _become(order, stdin, stdout, stderr)
        for fd in (stdin, stdout, stderr):
            os.close(fd)
        os.write(told, f"{pid}\n".encode())
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os.write(told, f"{status}\n".encode())
    finally:
        os._exit(0 if status == 0 else 1)


def _become(order: Mapping[str, Any], *streams: int) -> NoReturn:
    status = 1
    try:
        die_with_parent()
        os.setsid()
        for number, fd in enumerate(streams):
            os.dup2(fd, number)
            os.close(fd)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for the life of the process, as the next two
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        os.environ.clear()
        os.environ.update(order["environ"])
        os.chdir("/")
        status = work(order["words"])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - it is told on standard error
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]  # there is one
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    die_with_parent()
    serve(socket.socket(fileno=0))
