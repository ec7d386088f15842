"""A backend that makes a small prefix of real files, and does what a test's files tell it to.

Orders are files in one directory, so that they reach the backend in whatever process it works:

=============== ===================================================================================================
``fail``        JSON of an error (`EnvmgrError.to_json`), raised in the middle of the build
``fail-solve``  the same, before there is a lockfile
``hang-solve``  a FIFO, as ``hang``, before there is a lockfile
``crash``       the process that does the work kills itself in the middle of the build
``hang``        a FIFO; the build stands still until somebody opens it for writing and writes or closes it, and
                meanwhile watches its deadline
``started``     a FIFO; the process that does the work writes its pid and a newline into it when it stands still, fails
                or crashes (so that a test knows that it is in the middle)
``version``     text; the version of everything that a solve finds, ``1.0`` without it
``interpreter`` a path; ``bin/python`` becomes a link to it
``fill``        a number; so many bytes are written into the prefix
``begun``       written by the backend: one line ``<build id>`` for each build that was begun
=============== ===================================================================================================

With ``is_child`` the work is done by a forked process that holds the lease, as the real builder does.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import select
from collections.abc import Callable
from pathlib import Path

from envmgr import activation, errors, fsio, lockfile
from envmgr.errors import BuilderDied, EnvmgrError
from envmgr.events import Event, Reporter
from envmgr.lockfile import writing as _writing  # noqa: F401 - 0.7 s, paid once here instead of in each forked process
from envmgr.lockfile.comparison import conda_name
from envmgr.model import LockedPackage
from envmgr.ports import Deadline
from envmgr.wire.pipe import BuildRequest, BuildResult, Channel, Network
from fakes.processes import LIMIT_S, Died, Forked, die_now

_CHANNEL = "https://channel.invalid/demo"
_LOOK_S = 0.02


class FakeBackend:
    """See the module."""

    def __init__(self, orders: Path, *, is_child: bool = False) -> None:
        self._orders = orders
        self._is_child = is_child

    def begun(self) -> list[str]:
        """Return the builds that were begun, over all processes that share the orders."""
        try:
            return (self._orders / "begun").read_text(encoding="ascii").split()
        except FileNotFoundError:
            return []

    def build(
        self,
        request: BuildRequest,
        *,
        lease_fd: int,
        deadline: Deadline,
        report: Reporter,
        on_locked: Callable[[str], None],
    ) -> BuildResult:
        os.fstat(lease_fd)
        with open(self._orders / "begun", "a", encoding="ascii") as file:
            file.write(Path(request.build_dir).name + "\n")
        if not self._is_child:
            return self._work(request, deadline, report, on_locked)
        return self._in_child(request, deadline, report, on_locked)

    def probe(self, channel: Channel, network: Network, subdir: str) -> str | None:  # noqa: ARG002 - the port's
        return None

    def site_conda(self, executable: str | None) -> str:
        return f"conda 0.0 ({executable})"

    def _in_child(
        self,
        request: BuildRequest,
        deadline: Deadline,
        report: Reporter,
        on_locked: Callable[[str], None],
    ) -> BuildResult:
        lines_read, lines_write = os.pipe()

        def work() -> BuildResult:
            fsio.observer = None  # the steps of a real builder are not the parent's
            os.close(lines_read)

            def send(key: str, value: object) -> None:
                os.write(lines_write, json.dumps({key: value}).encode() + b"\n")

            return self._work(
                request, _Never(), lambda event: send("event", event.to_json()), lambda text: send("locked", text)
            )

        child = Forked(work)
        os.close(lines_write)
        buffer = b""
        try:
            while True:
                deadline.check()
                remaining = deadline.remaining_s()
                pause = LIMIT_S if remaining is None else remaining
                if not select.select([lines_read], [], [], min(_LOOK_S, pause))[0]:
                    continue
                block = os.read(lines_read, 1 << 20)
                if not block:
                    break
                buffer += block
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    document = json.loads(line)
                    if "locked" in document:
                        on_locked(document["locked"])
                    else:
                        report(Event(**document["event"]))
        except BaseException:
            child.abandon()
            raise
        finally:
            os.close(lines_read)
        try:
            return child.result()
        except Died as error:
            raise BuilderDied(f"the builder ended with {error.status}", status=error.status) from None

    def _work(
        self, request: BuildRequest, deadline: Deadline, report: Reporter, on_locked: Callable[[str], None]
    ) -> BuildResult:
        build_dir, prefix = Path(request.build_dir), Path(request.prefix)
        with (build_dir / "build.log").open("w", encoding="utf-8") as log:
            log.write(f"building {request.name}\n")
            report(Event("begin", "solve"))
            if request.lockfile is None:
                with contextlib.suppress(FileNotFoundError):  # withdrawn this very moment
                    _stand_still(self._orders / "hang-solve", deadline)
                self._fail("fail-solve")
            packages = self._solve(request)
            text = request.lockfile if request.lockfile is not None else _lock_text(request.subdir, tuple(packages))
            on_locked(text)
            report(Event("end", "solve"))
            log.write("locked\n")
            log.flush()
            deadline.check()
            self._follow_orders(deadline)
            locked = lockfile.parse(text, request.subdir)
            if request.action == "build":
                report(Event("begin", "link"))
                prefix.mkdir()
                for package in locked.packages:
                    _install(prefix, package)
                self._interpreter(prefix)
                self._fill(prefix)
                report(Event("end", "link"))
            deadline.check()
            log.write("installed\n")
        (build_dir / "conda-lock.yml").write_text(text, encoding="utf-8")
        changes = [("set", key, value) for key, value in request.variables]
        (build_dir / activation.FILE_NAME).write_bytes(
            activation.dump([("prepend", "PATH", f"{prefix}/bin"), *changes])
        )
        fsio.sync_directory(build_dir)
        return BuildResult(
            lock_digest=locked.digest,
            packages=len(locked.packages),
            size_bytes=sum(path.lstat().st_size for path in prefix.rglob("*")),
            python_version=None,
            phases_s=(("solve", 0.0), ("link", 0.0)),
        )

    def _solve(self, request: BuildRequest) -> list[LockedPackage]:
        version = self._order("version") or "1.0"
        names = sorted({conda_name(match_spec) for match_spec in request.conda})
        return [_package(name, version) for name in names]

    def _order(self, name: str) -> str | None:
        try:
            return (self._orders / name).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None

    def _follow_orders(self, deadline: Deadline) -> None:
        with contextlib.suppress(FileNotFoundError, BrokenPipeError):  # builds are released this very moment
            fd = os.open(self._orders / "started", os.O_WRONLY)  # until the test reads
            try:
                os.write(fd, f"{os.getpid()}\n".encode())
            finally:
                os.close(fd)
        with contextlib.suppress(FileNotFoundError):  # as above
            _stand_still(self._orders / "hang", deadline)
        if (self._orders / "crash").exists():
            die_now()
        self._fail("fail")

    def _fail(self, order: str) -> None:
        failure = self._order(order)
        if failure is not None:
            raise errors.from_json(json.loads(failure))

    def _interpreter(self, prefix: Path) -> None:
        target = self._order("interpreter")
        if target is not None:
            (prefix / "bin").mkdir(exist_ok=True)
            (prefix / "bin" / "python").symlink_to(target)

    def _fill(self, prefix: Path) -> None:
        size = self._order("fill")
        if size is not None:
            with (prefix / "filling").open("wb") as file:
                file.write(b"\0" * int(size))


class _Never:
    """The deadline of a child: its parent watches."""

    def check(self) -> None:
        pass

    def remaining_s(self) -> float | None:
        return None


def _stand_still(fifo: Path, deadline: Deadline) -> None:
    fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while not select.select([fd], [], [], _LOOK_S)[0]:
            deadline.check()
    finally:
        os.close(fd)


class Orders:
    """The test's side of a fake backend's orders."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def fail(self, error: EnvmgrError, order: str = "fail") -> None:
        (self.directory / order).write_text(json.dumps(error.to_json()), encoding="utf-8")

    def say(self, name: str, text: str = "") -> None:
        (self.directory / name).write_text(text, encoding="utf-8")

    def withdraw(self, name: str) -> None:
        (self.directory / name).unlink()

    def hang(self) -> None:
        """Let builds stand still, and say so, from now on."""
        os.mkfifo(self.directory / "hang")
        os.mkfifo(self.directory / "started")

    def wait_started(self) -> int:
        """Wait until a build is in its middle, and return the pid of the process that does its work."""
        fd = os.open(self.directory / "started", os.O_RDONLY | os.O_NONBLOCK)
        try:
            text = b""
            while not text.endswith(b"\n"):
                if not select.select([fd], [], [], LIMIT_S)[0]:
                    raise TimeoutError("no build was begun")
                text += os.read(fd, 100)
            return int(text)
        finally:
            os.close(fd)

    def release_nobody(self) -> None:
        """Let builds that come later not stand still; the one that stands still is dead or about to be."""
        (self.directory / "hang").unlink()
        (self.directory / "started").unlink()

    def release(self) -> None:
        """Let the builds that stand still, or are about to, go on, and those that come later not stand still."""
        fd = os.open(self.directory / "hang", os.O_RDWR)  # does not wait for a reader
        # The end of a writer is not told to who opens while he is there; what he wrote is.
        os.write(fd, b"\n")
        said = os.open(self.directory / "started", os.O_RDONLY | os.O_NONBLOCK)  # lets go whoever waits to be read
        (self.directory / "hang").unlink()
        (self.directory / "started").unlink()
        os.close(said)
        os.close(fd)


def _package(name: str, version: str) -> LockedPackage:
    content = f"{name} {version}".encode()
    return LockedPackage(
        manager="conda",
        name=name,
        version=version,
        url=f"{_CHANNEL}/noarch/{name}-{version}-0.conda",
        sha256=hashlib.sha256(content).hexdigest(),
        md5=hashlib.md5(content, usedforsecurity=False).hexdigest(),
        build="0",
        subdir="noarch",
        dependencies=(),
    )


@functools.cache
def _lock_text(subdir: str, packages: tuple[LockedPackage, ...]) -> str:
    return lockfile.write(packages, subdir=subdir, channels=[_CHANNEL])


def _install(prefix: Path, package: LockedPackage) -> None:
    """Write one file and the record that conda would write, with its hash."""
    content = f"{package.name} {package.version}\n".encode()
    path = Path("share") / package.name
    (prefix / "share").mkdir(exist_ok=True)
    (prefix / path).write_bytes(content)
    meta = prefix / "conda-meta"
    meta.mkdir(exist_ok=True)
    document = {
        "name": package.name,
        "version": package.version,
        "build": package.build,
        "paths_data": {
            "paths_version": 1,
            "paths": [{"_path": str(path), "sha256_in_prefix": hashlib.sha256(content).hexdigest()}],
        },
    }
    (meta / f"{package.name}-{package.version}-{package.build}.json").write_text(json.dumps(document), encoding="utf-8")
