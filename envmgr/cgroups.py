"""Bounds what a family of processes may use together, through a cgroup of its own (version 2, Linux 4.19).

::

    <base>/               a cgroup that is ours to arrange: systemd delegates it (``Delegate=memory``), or a container
      main/               this process; processes live in leaves only, so it moves there before the first group is made
      envmgr-build-<pid>-<…>/   one family of that process (a build, a run program), from `Group` to `Group.remove`

Where the kernel, the rights or other processes in our cgroup forbid it, `Unavailable` says which, and nothing has been
changed. A group whose process was killed before it could remove it is empty; the next one that is made removes it. A
group that was made a moment ago is empty, too: so whose it is stands in its name.

Not promised: that memory is bounded from the first instruction on where `Group.add` takes in a process that already
runs (what that used before stays with the old group); one that writes ``0`` to `Group.members` before it becomes the
program is bounded from there on.

Source: Documentation/admin-guide/cgroup-v2.rst; systemd.resource-control(5), "Delegate"; CGROUP_DELEGATION.md.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
import uuid
from collections.abc import Collection
from pathlib import Path
from typing import Literal

Controller = Literal["memory", "cpu"]

_MEMORY: tuple[Controller, ...] = ("memory",)
_MAIN = "main"
_PREFIX = "envmgr-"
_PERIOD_US = 100_000
_UNITS = frozenset({".service", ".scope"})
_PATIENCE_S = 2.0
_LOOK_S = 0.005
_arranging = threading.Lock()
_making = threading.Lock()
_ours: set[str] = set()
"""The names of the groups that this process has; changed under `_making`."""
_arranged: set[Path] = set()
"""The cgroups that this process has arranged, and left for their `_MAIN`; changed under `_arranging`."""


class Unavailable(Exception):
    """No group can be made here; the text says why."""


class Group:
    """One bounded family of processes. `OSError` where the kernel refuses what it granted a moment ago."""

    def __init__(
        self, base: Path, memory_bytes: int | None, cores: int | None = None, *, kind: Literal["build", "run"] = "build"
    ) -> None:
        with _making:
            for leftover in base.glob(f"{_PREFIX}*-*"):
                if not _is_somebodys(leftover.name):
                    with contextlib.suppress(OSError):  # in use
                        leftover.rmdir()
            self._path = base / f"{_PREFIX}{kind}-{os.getpid()}-{uuid.uuid4().hex[:12]}"
            self._path.mkdir()
            _ours.add(self._path.name)
        try:
            if memory_bytes is not None:
                (self._path / "memory.max").write_text(str(memory_bytes))
                (self._path / "memory.oom.group").write_text("1")
                with contextlib.suppress(OSError):  # a kernel without swap
                    (self._path / "memory.swap.max").write_text("0")
            if cores is not None:
                (self._path / "cpu.max").write_text(f"{cores * _PERIOD_US} {_PERIOD_US}")
        except OSError:
            self.remove()
            raise

    @property
    def members(self) -> Path:
        """The file to which a process writes ``0`` to go into the group by itself."""
        return self._path / "cgroup.procs"

    def add(self, pid: int) -> None:
        """Take in a process; what it starts from now on is in the group, too."""
        with contextlib.suppress(ProcessLookupError):
            self.members.write_text(str(pid))

    @property
    def peak_bytes(self) -> int | None:
        """The most memory that the group used at one time, or ``None`` where the kernel (before 5.19) does not say."""
        try:
            return int((self._path / "memory.peak").read_text("ascii"))
        except (OSError, ValueError):
            return None

    @property
    def has_run_out(self) -> bool:
        """Whether the kernel has killed processes of the group because it used too much."""
        try:
            events = dict(line.split() for line in (self._path / "memory.events").read_text("ascii").splitlines())
        except (OSError, ValueError):
            return False
        return int(events.get("oom_kill", 0)) > 0

    def remove(self) -> None:
        """Remove the group; its last process may have ended just now."""
        with _making:
            _ours.discard(self._path.name)
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self._path.rmdir()
            except FileNotFoundError:
                return
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > until:
                    return  # the next group that is made tries again
                time.sleep(_LOOK_S)
            else:
                return


def _is_somebodys(name: str) -> bool:
    """Tell whether the process that made a group lives and may be about to use it."""
    _, _, rest = name.removeprefix(_PREFIX).partition("-")
    pid = rest.partition("-")[0]
    return name in _ours if pid == str(os.getpid()) else pid.isdecimal() and os.path.exists(f"/proc/{pid}")


def base(proc: Path = Path("/proc/self"), *, controllers: Collection[Controller] = _MEMORY) -> Path:
    """Return the cgroup below which groups can be made, arranged for these controllers; raise `Unavailable`."""
    with _arranging:
        try:
            return _arrange(_own(proc), os.getpid(), controllers)
        except OSError as error:
            raise Unavailable(f"{error.filename}: {error.strerror}") from error


def _own(proc: Path) -> Path:
    """Return the directory of this process's cgroup."""
    mounts = [line.split() for line in (proc / "mountinfo").read_text().splitlines()]
    found = [(fields[3], fields[4]) for fields in mounts if fields[fields.index("-") + 1] == "cgroup2"]
    inside = [line[3:] for line in (proc / "cgroup").read_text().splitlines() if line.startswith("0::")]
    if not found or not inside:
        raise Unavailable("no cgroup file system of version 2 is mounted")
    root, place = found[0]
    return Path(place) / os.path.relpath(inside[0], root) if inside[0] != root else Path(place)


def _arrange(own: Path, pid: int, controllers: Collection[Controller]) -> Path:
    # systemd makes no cgroups inside a service's: ours is either what we made here, or its DelegateSubgroup=. Inside of
    # a manager's own service (user@….service) it makes some, which are units again.
    if own.parent.suffix in _UNITS and own.suffix not in _UNITS | {".slice"}:
        return _enable(own.parent, controllers)
    if own.name == _MAIN and own.parent in _arranged:
        return _enable(own.parent, controllers)
    _check_controllers(own, controllers)
    others = [one for one in _words(own / "cgroup.procs") if int(one) != pid]
    if others:
        raise Unavailable(f"{own} is not ours alone: it has {len(others)} other processes")
    main = own / _MAIN
    main.mkdir(exist_ok=True)
    (main / "cgroup.procs").write_text(str(pid))
    _arranged.add(own)
    return _enable(own, controllers)


def _enable(path: Path, controllers: Collection[Controller]) -> Path:
    enabled = _words(path / "cgroup.subtree_control")
    missing = [controller for controller in controllers if controller not in enabled]
    if missing:
        _check_controllers(path, missing)
        (path / "cgroup.subtree_control").write_text(" ".join(f"+{controller}" for controller in missing))
    if not os.access(path, os.W_OK):
        raise Unavailable(f"{path} is not ours to write")
    return path


def _check_controllers(path: Path, controllers: Collection[Controller]) -> None:
    there = _words(path / "cgroup.controllers")
    missing = [controller for controller in controllers if controller not in there]
    if missing:
        what = (
            f"the {missing[0]} controller is" if len(missing) == 1 else f"the controllers {' and '.join(missing)} are"
        )
        raise Unavailable(f"{what} not delegated to {path} (systemd: Delegate={' '.join(missing)})")


def _words(path: Path) -> list[str]:
    return path.read_text("ascii").split()
