"""The order of a run: ensure, lease, activate, take a place, start, wait, tell how it ended.

Without limits, the program is a plain child of the caller. With them it runs below a supervisor
(`envmgr.runners.program.supervisor`), which is started in either of two situations:

* A cgroup is ours to arrange (`envmgr.cgroups`): the kernel bounds memory and CPUs of the whole tree, from the first
  instruction on, and ends all of it when its memory runs out.
* Else the supervisor looks at the tree's memory some twenty times a second, each process may map no more than a few
  times as much (`Limits.backstop_bytes`), and the tree is bound to CPUs of its own, those that were promised to the
  fewest other programs.

Wall time and instances are the same in both. What kept each limit is in the result, and in `LimitExceeded`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from envmgr import cgroups, client
from envmgr.errors import EnvmgrError, LimitExceeded, UnsuitableFilesystem, UsageError
from envmgr.events import Event, counted, sized
from envmgr.runners.program import slots
from envmgr.runners.program.limits import Finished, Limits
from envmgr.runners.program.supervising import Supervised, blocked
from envmgr.store.layout import Layout
from envmgr.store.opening import store_id

if TYPE_CHECKING:
    from envmgr.client import Environment, SpecLike
    from envmgr.events import Reporter

_NEEDED: Mapping[str, cgroups.Controller] = {"memory_bytes": "memory", "cores": "cpu"}


def run(
    spec: SpecLike,
    command: Sequence[str | os.PathLike[str]],
    *,
    limits: Limits | None = None,
    timeout_s: float | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    stdin: int | IO[Any] | None = None,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    on_progress: Reporter | None = None,
    root: str | os.PathLike[str] | None = None,
) -> Finished:
    """Run a program to its end inside the environment of `spec`, which is made first if need be (`envmgr.ensure`).

    Its output goes where this process's does, as it comes, or to `stdout` and `stderr`; ``subprocess.PIPE`` is not
    possible (`Environment.popen` is for that). `env` is the base of its variables. `timeout_s` bounds what `ensure`
    does, no more. An exit status other than 0 is the caller's to judge.

    With `limits`, be they empty, nothing that the program has started is left when this returns or raises, nor after
    this process was killed. Raises `LimitExceeded` when it was ended over one of them (``fields``: ``limit``,
    ``value``, ``used``, ``mechanism``), `Busy` when as many instances run as may, `OSError` when it cannot be started,
    and what `ensure` raises.
    """
    if isinstance(command, (str, bytes)) or not command:
        raise UsageError("a command is a sequence: the program, then its arguments")
    if subprocess.PIPE in (stdin, stdout, stderr):
        raise UsageError("run has nobody who reads a pipe", hint="pass a file, or use envmgr.ensure(…).popen(…)")
    words = [os.fspath(word) for word in command]
    streams: dict[str, Any] = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
    with client.ensure(spec, timeout_s=timeout_s, on_progress=on_progress, root=root) as environment:
        if limits is None:
            return _plainly(environment, words, env=env, cwd=cwd, **streams)
        with Limited(environment, limits, on_progress) as limited:
            program = limited.start(words, env=env, cwd=cwd, **streams)
            program.wait()
            return limited.finished()


def _plainly(environment: Environment, command: Sequence[str], **options: Any) -> Finished:
    began = time.monotonic()
    process = environment.popen(command, **options)
    try:
        _, status, used = os.wait4(process.pid, 0)
    except ChildProcessError as error:
        process.returncode = 0  # nobody knows
        raise EnvmgrError(
            f"how {command[0]} ended is not known: this program ignores SIGCHLD, or reaps its children elsewhere",
            hint="with limits, be they empty (envmgr.Limits()), it is",
        ) from error
    except BaseException:
        process.kill()
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    return Finished(
        name=environment.name,
        status=process.returncode,
        wall_s=time.monotonic() - began,
        cpu_s=used.ru_utime + used.ru_stime,
        peak_memory_bytes=used.ru_maxrss << 10,
    )


class Limited:
    """One run within limits, as a context: from the place that it takes to the end of the last of its processes."""

    def __init__(
        self,
        environment: Environment,
        limits: Limits,
        report: Reporter | None = None,
        *,
        find_cgroup: Callable[..., Path] = cgroups.base,
    ) -> None:
        self._find_cgroup = find_cgroup
        self._environment = environment
        self._limits = limits
        self._report = report
        self._held = contextlib.ExitStack()
        self._instances: list[int] = []
        self._promises: list[int] = []
        self._cpus: list[int] = []
        self._group: cgroups.Group | None = None
        self._why_not: str | None = None
        self._program: Supervised | None = None
        self._left: Sequence[int] = ()

    def __enter__(self) -> Limited:  # noqa: PYI034 - `Self` is not in Python 3.10's typing
        """Take a place, waiting as long as the limits say, and find what keeps them."""
        limits = self._limits
        with contextlib.ExitStack() as held:
            if limits.instances is not None:
                self._instances = [_instance(self._environment, limits.instances, limits.wait_s, self._report)]
            self._hold(held, self._instances)
            self._group, self._why_not = _group(limits, self._find_cgroup)
            if self._group is not None:
                held.callback(self._group.remove)
            elif limits.cores is not None:
                self._cpus, self._promises = slots.cpus(_place(), limits.cores)
            self._hold(held, self._promises)
            self._held = held.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """Leave nothing of it running, and give back what it had."""
        self._held.close()

    def _hold(self, held: contextlib.ExitStack, fds: Sequence[int]) -> None:
        for fd in fds:
            held.callback(self._give_back, fd)

    def _give_back(self, fd: int) -> None:
        """Release a lock, which whoever was forked off this process meanwhile has, too; but not while it is used."""
        is_lost = self._program is not None and self._program.was_lost
        if not (self._left or is_lost):
            fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)

    def start(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        blocks: Sequence[int] | None = None,
        inherits_all: bool = False,
        **streams: Any,
    ) -> Supervised:
        """Start the program; `blocks` are the signals that it is to block, if not those that this thread does."""
        is_ours = self._group is None
        request = {
            "cwd": None if cwd is None else os.fspath(cwd),
            "blocked": blocked() if blocks is None else list(blocks),
            "memory_bytes": self._limits.memory_bytes if is_ours else None,
            "backstop_bytes": self._limits.backstop_bytes if is_ours else None,
            "wall_s": self._limits.wall_s,
            "cpus": self._cpus,
            "group": None if self._group is None else str(self._group.members),
        }
        self._program = Supervised(
            command, self._limits.environ(self._environment.environ(env)), request=request,
            program_fds=(self._environment.fileno(), *self._instances), own_fds=self._promises,
            inherits_all=inherits_all, **streams,
        )  # fmt: skip
        self._held.callback(self._program.end)
        return self._program

    @property
    def mechanisms(self) -> dict[str, str]:
        """What keeps each limit that was asked for."""
        by_kernel = self._group is not None
        kept = {
            "memory_bytes": "cgroup" if by_kernel else "watched",
            "cores": "cgroup" if by_kernel else "affinity",
            "wall_s": "clock",
            "instances": "locks",
        }
        return {limit: how for limit, how in kept.items() if getattr(self._limits, limit) is not None}

    def finished(self) -> Finished:
        """Return how it ended, after it has; `LimitExceeded` where it was ended, `OSError` where it did not start."""
        if self._program is None:
            raise UsageError("nothing was started")
        answer = self._program.answer()
        over, self._left = answer["over"], answer["left"]
        peak_bytes = answer["peak_memory_bytes"]
        if self._group is not None and self._limits.memory_bytes is not None:
            peak_bytes = self._group.peak_bytes
            if self._group.has_run_out:
                over = {"limit": "memory_bytes", "value": self._limits.memory_bytes, "used": peak_bytes}
        if self._left and self._report is not None:
            pids = ", ".join(map(str, self._left))
            self._report(
                Event("warning", "wait", f"processes of the program do not die, or are another user's: {pids}")
            )
        if over is not None:
            raise _exceeded(over, self.mechanisms[over["limit"]], self._why_not, answer)
        return Finished(
            name=self._environment.name,
            status=answer["status"],
            wall_s=answer["wall_s"],
            cpu_s=answer["cpu_s"],
            peak_memory_bytes=peak_bytes,
            mechanisms=self.mechanisms,
        )


def _place() -> Path | None:
    with contextlib.suppress(UnsuitableFilesystem):
        return slots.directory()
    return None


def _instance(environment: Environment, count: int, wait_s: float, report: Reporter | None) -> int:
    store = Layout(environment.path.parent.parent)
    paths = slots.instance_paths(slots.directory(), slots.key(store_id(store), environment.name), count)

    def say() -> None:
        if report is not None:
            report(Event("begin", "wait", f"for one of {counted(count, 'instance')} of {environment.name} to end"))

    return slots.instance(paths, wait_s=wait_s, on_wait=say)


def _group(limits: Limits, find: Callable[..., Path]) -> tuple[cgroups.Group | None, str | None]:
    """Return a cgroup that keeps the limits, or why there is none."""
    controllers = [controller for limit, controller in _NEEDED.items() if getattr(limits, limit) is not None]
    if not controllers:
        return None, None
    try:
        base = find(controllers=controllers)
        return cgroups.Group(base, limits.memory_bytes, limits.cores, kind="run"), None
    except cgroups.Unavailable as error:
        return None, str(error)
    except OSError as error:
        return None, f"{error.filename}: {error.strerror}"


def _exceeded(over: Mapping[str, Any], mechanism: str, why_not: str | None, answer: Mapping[str, Any]) -> LimitExceeded:
    limit, value, used = over["limit"], over["value"], over["used"]
    if limit == "wall_s":
        message = f"the program was ended after {used:.1f} s: it may run for {value:g} s"
        hint = "a longer wall time, or less work at a time"
    else:
        how_much = "" if used is None else f" ({sized(used)})"
        who = "the kernel" if mechanism == "cgroup" else "envmgr, which watched it"
        message = f"the program and what it started used more than {sized(value)} of memory{how_much}"
        message += f" and were ended by {who}"
        hint = "more memory, or less data at a time"
    return LimitExceeded(
        message,
        hint=hint,
        limit=limit,
        value=value,
        used=used,
        mechanism=mechanism,
        why_no_cgroup=why_not,
        wall_s=answer["wall_s"],
        cpu_s=answer["cpu_s"],
    )
