"""The parent's half of a build: starts a builder process, listens to it, and leaves no process behind.

rattler hangs in forked children, cannot be cancelled, and may crash at an interpreter's exit; a process can be killed.
So every build is a child process in a session of its own, and this module is all that the parent knows of it. It
imports neither rattler nor conda_lock.

* Each builder has a thread of its own that started it and stays as long as it lives (`envmgr.backends.forker`).
* The builder gets a minimal environment: no variable of the caller's, but ``LD_LIBRARY_PATH``, without which some
  interpreters do not start (the builder drops it before it does anything).
* It is this very envmgr, found by its place on disk, whatever way the parent came to import it. What it needs besides
  is looked for where the parent would, after the interpreter's own places: a module of the caller's can stand in for
  nothing of the library's.
* Its output is the build's log; its answers come through a pipe, the request goes in through a file in memory, so that
  neither side can wait for the other.
* Where the kernel lets us, the memory of the builder and its tools is bounded (`envmgr.cgroups`).
* However `Spawner.build` ends, the builder and all that it has started are gone (`envmgr.backends.families`).

One build from its request to its end stands in one module, although that makes it a little long.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envmgr import cgroups, fsio
from envmgr.backends import cache_use, families
from envmgr.backends.forker import Forker
from envmgr.errors import BuilderDied, EnvmgrError, NoSpace, TimedOut, from_json
from envmgr.events import Event, Reporter, ignore
from envmgr.wire import pipe as wire

if TYPE_CHECKING:
    from envmgr.ports import Deadline
    from envmgr.wire.pipe import BuildRequest, BuildResult, Channel, Network

LOG_NAME = "build.log"
PATH_VARIABLE = "ENVMGR_BUILDER_PATH"
_LOOK_S = 0.1
_EXIT_GRACE_S = 5.0
_TAIL_LINES = 15
_TAIL_BYTES = 1 << 14
_READ_BYTES = 1 << 16
_PROBE_GRACE_S = 30.0
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BUILDER = Path(__file__).parents[1] / "builder" / "__main__.py"


def builder_command() -> list[str]:
    """Return what starts a builder; three numbers are added to it: the events' descriptor, the lease's, our own pid."""
    if not sys.executable:
        raise BuilderDied(
            "the builder cannot be started: this program does not know its own interpreter (sys.executable is empty)",
            hint="an embedded Python has to set it; or ask the command line's envmgr for the environment first",
        )
    return [sys.executable, "-I", str(_BUILDER)]


class Spawner:
    """The `envmgr.ports.Backend` of a real store. Any number of threads may use one at the same time."""

    def __init__(self, command: Sequence[str] | None = None, *, find_cgroup: Callable[[], Path] = cgroups.base) -> None:
        self._command = command
        self._find_cgroup = find_cgroup

    def build(
        self,
        request: BuildRequest,
        *,
        lease_fd: int,
        deadline: Deadline,
        report: Reporter,
        on_locked: Callable[[str], None],
    ) -> BuildResult:
        """Do `request` in a process of its own; see `envmgr.ports.Backend.build`.

        Raises what the builder answered, what `deadline` raises, or `BuilderDied`. `report` and `on_locked` are called
        on this thread; what they raise ends the build, too.
        """
        if request.backend != "rattler":
            from envmgr.backends.conda import executable  # noqa: PLC0415 - for the few stores that need it

            request = replace(request, conda_environ=executable.surroundings(os.environ))
        # Before there is a builder, which would be another process in our cgroup: that is then not ours to arrange.
        base = self._cgroup_for(request)
        builder = _Builder(self._command or builder_command(), request, lease_fd, report)
        try:
            builder.bound(base)
            return builder.listen(deadline, report, on_locked)
        except BaseException:
            _insist(builder.end)
            _clear_cache(request.package_cache)
            raise
        finally:
            _insist(builder.end)

    def site_conda(self, executable: str | None) -> str:
        """Return which conda builds would be made with; see `envmgr.ports.Backend.site_conda`."""
        from envmgr.backends.conda import executable as finding  # noqa: PLC0415 - for the few stores that need it

        return str(finding.find(executable, dict(finding.surroundings(os.environ))))

    def _cgroup_for(self, request: BuildRequest) -> Path | None:
        """Return where a build's memory can be bounded, or ``None`` where it need not or cannot be."""
        if request.memory_bytes:
            with contextlib.suppress(cgroups.Unavailable, OSError):
                return self._find_cgroup()
        return None

    def probe(self, channel: Channel, network: Network, subdir: str) -> str | None:
        """Look whether a channel answers; return what is wrong with it, or ``None``."""
        with tempfile.TemporaryDirectory(prefix="envmgr-probe-") as scratch:
            request = wire.BuildRequest(
                action="probe",
                name="probe",
                digest="",
                subdir=subdir,
                conda=(),
                pip=(),
                channels=(channel,),
                channel_priority="strict",
                variables=(),
                lockfile=None,
                build_dir=scratch,
                prefix=f"{scratch}/prefix",
                package_cache=f"{scratch}/pkgs",
                uv_cache=f"{scratch}/uv",
                machine_class=subdir,
                network=network,
            )
            lease_fd = os.open(scratch, os.O_RDONLY | os.O_CLOEXEC)
            try:
                deadline = _Seconds(network.timeout_s + _PROBE_GRACE_S)
                self.build(request, lease_fd=lease_fd, deadline=deadline, report=ignore, on_locked=lambda _text: None)
            except EnvmgrError as error:  # whatever it is, it is the answer: one channel's trouble ends no diagnosis
                return error.message
            finally:
                os.close(lease_fd)
        return None


def _clear_cache(package_cache: str) -> None:
    """Delete what a builder that failed or was killed has left unfinished, unless another build is at work there.

    Only now: rattler's threads go on writing until their process has ended.
    """
    with contextlib.suppress(OSError), cache_use.in_use(Path(package_cache)):
        pass


class _Seconds:
    """A deadline so many seconds from now."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = time.monotonic() + seconds

    def check(self) -> None:
        if time.monotonic() > self._until:
            raise TimedOut(f"no answer within {self._seconds:g} s")

    def remaining_s(self) -> float | None:
        return max(0.0, self._until - time.monotonic())


def _insist(call: Callable[[], object]) -> None:
    """Call until it returns, however often the user presses Ctrl-C meanwhile; pass the last one on afterwards."""
    interrupt: KeyboardInterrupt | None = None
    while True:
        try:
            call()
        except KeyboardInterrupt as error:
            interrupt = error
        else:
            break
    if interrupt is not None:
        raise interrupt


class _Builder:
    """One builder process, from its start to the end of the last of its family."""

    def __init__(self, command: Sequence[str], request: BuildRequest, lease_fd: int, report: Reporter) -> None:
        self._build_dir = request.build_dir
        self._memory_bytes = request.memory_bytes
        self._group: cgroups.Group | None = None
        self._log = Path(request.build_dir, LOG_NAME)
        self._report = report
        self._started: Future[subprocess.Popen[bytes]] = Future()
        self._events, writer = os.pipe2(os.O_CLOEXEC)
        self._rest = b""
        self._is_ended = False
        self._forker = Forker()
        try:
            with self._open_log() as log, _in_memory(wire.dump(request).encode()) as stdin:
                self._forker.start(
                    self._started,
                    args=[*command, str(writer), str(lease_fd), str(os.getpid())],
                    stdin=stdin,
                    stdout=log,
                    stderr=log,
                    env=_environ(request.build_dir),
                    cwd=request.build_dir,
                    pass_fds=(writer, lease_fd),
                    start_new_session=True,
                    umask=0o022,
                )
                _insist(lambda: concurrent.futures.wait([self._started]))  # while the files are open
        except BaseException as error:
            _insist(self.end)
            if isinstance(error, OSError):
                raise _no_start(error, request.build_dir) from error
            raise
        finally:
            os.close(writer)

    @contextlib.contextmanager
    def _open_log(self) -> Iterator[int]:
        fd = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.fchmod(fd, 0o644)
            yield fd
        finally:
            os.close(fd)

    def bound(self, base: Path | None) -> None:
        """Bound the memory of the builder and its tools together, in a cgroup below `base` if there is one.

        It is still busy with its own start then, and has started nobody else.
        """
        if base is None or self._started.exception() is not None:
            return
        with contextlib.suppress(OSError):
            self._group = cgroups.Group(base, self._memory_bytes)
            self._group.add(self._started.result().pid)

    # --------------------------------------------------------------------------------------------------- listening

    def listen(self, deadline: Deadline, report: Reporter, on_locked: Callable[[str], None]) -> BuildResult:
        """Pass events on until the builder's last line; return its result, or raise its error."""
        try:
            process = self._started.result()
        except OSError as error:
            raise _no_start(error, self._build_dir) from error
        for line in self._lines(process, deadline):
            try:
                document = json.loads(line)
            except ValueError as error:
                raise BuilderDied(f"the builder wrote what is no answer: {line[:200]!r}") from error
            if "event" in document:
                report(Event(**document["event"]))
            elif "locked" in document:
                on_locked(str(document["locked"]))
            elif "result" in document:
                return self._result(document["result"])
            elif "error" in document:
                raise self._out_of_memory() or from_json(document["error"])
        raise self._died(process)

    @staticmethod
    def _result(document: dict[str, Any]) -> BuildResult:
        if document.get("version") != wire.VERSION:
            raise BuilderDied(
                f"the builder speaks version {document.get('version')} of the protocol, not {wire.VERSION}",
                hint="envmgr was replaced while it ran; start the program again",
            )
        return wire.load(wire.BuildResult, document)

    def _lines(self, process: subprocess.Popen[bytes], deadline: Deadline) -> Iterator[bytes]:
        """Yield lines until the pipe ends, or the builder has; `deadline` is checked at least every `_LOOK_S`."""
        poll = select.poll()
        poll.register(self._events, select.POLLIN)
        look_at = 0.0
        while True:
            if (left_s := look_at - time.monotonic()) <= 0:
                deadline.check()
                look_at, left_s = time.monotonic() + _LOOK_S, _LOOK_S
            # A process that was forked off this one meanwhile may hold the other end open; so the pipe's end alone
            # does not tell that the builder is gone.
            is_over = families.has_exited(process.pid)
            if not poll.poll(0 if is_over else left_s * 1000):
                if is_over:
                    return
                continue
            block = os.read(self._events, _READ_BYTES)
            if not block:
                return
            *lines, self._rest = (self._rest + block).split(b"\n")
            yield from lines

    def _died(self, process: subprocess.Popen[bytes]) -> EnvmgrError:
        until = time.monotonic() + _EXIT_GRACE_S
        while not families.has_exited(process.pid) and time.monotonic() < until:
            time.sleep(_LOOK_S / 10)
        if error := self._out_of_memory():
            return error
        how = "closed its pipe and went on" if not families.has_exited(process.pid) else _how_it_ended(process.pid)
        tail = self._tail()
        return BuilderDied(
            f"the builder {how} without an answer" + (f"; the last lines of its log: {tail}" if tail else ""),
            hint="out of memory? The kernel's log says so (dmesg)" if "SIGKILL" in how else None,
            log=str(self._log),
        )

    def _out_of_memory(self) -> BuilderDied | None:
        """Return the error of a build whose processes were killed because they used more than they may."""
        if self._group is None or not self._group.has_run_out:
            return None
        return BuilderDied(
            f"the build used more than {self._memory_bytes / 2**20:.0f} MiB of memory and was ended by the kernel",
            hint="the setting builder_memory_bytes says how much one build and its tools may use",
            setting="builder_memory_bytes",
            log=str(self._log),
        )

    def _tail(self) -> str:
        try:
            with self._log.open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return " / ".join(line.strip() for line in lines[-_TAIL_LINES:] if line.strip())

    # ------------------------------------------------------------------------------------------------------- ending

    def end(self) -> None:
        """Leave no process and no descriptor; may be called again when it was interrupted."""
        if self._is_ended:
            return
        if not self._started.cancel():  # else it was not ordered, or will be found cancelled
            concurrent.futures.wait([self._started])
            if self._started.exception() is None:
                process = self._started.result()
                families.end(process.pid, self._build_dir, lambda line: self._report(Event("log", "wait", line)))
                process.wait()
        if self._group is not None:
            self._group.remove()
        self._forker.end()
        os.close(self._events)
        self._is_ended = True


def _no_start(error: OSError, build_dir: str) -> EnvmgrError:
    if error.errno in fsio.OUT_OF_SPACE:
        return NoSpace(f"no builder can be started in {build_dir}: {error.strerror}", hint="`envmgr gc` frees space")
    return BuilderDied(
        f"the builder could not be started: {error}", hint="is the interpreter that runs envmgr still there?"
    )


def _how_it_ended(pid: int) -> str:
    try:
        status = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        status = None
    if status is None:
        return "ended"
    if status.si_code == os.CLD_EXITED:
        return f"ended with status {status.si_status}"
    try:
        name = signal.Signals(status.si_status).name
    except ValueError:
        name = f"signal {status.si_status}"
    return f"was killed by {name}"


def _environ(build_dir: str) -> dict[str, str]:
    places = [entry for entry in sys.path if os.path.isabs(entry)]
    variables = {
        "PATH": _SYSTEM_PATH,
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "HOME": build_dir,
        "TMPDIR": os.path.join(build_dir, "tmp"),
        families.MARK: build_dir,
        PATH_VARIABLE: json.dumps(places),
    }
    if "LD_LIBRARY_PATH" in os.environ:
        variables["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    return variables


@contextlib.contextmanager
def _in_memory(data: bytes) -> Iterator[int]:
    """Yield a descriptor of a file with `data`, to be read from its beginning; it has no name on any disk."""
    fd = os.memfd_create("envmgr-request", os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.lseek(fd, 0, os.SEEK_SET)
        yield fd
    finally:
        os.close(fd)
