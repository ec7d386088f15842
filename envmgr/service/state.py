"""What is installed and how it does, as any user may see it."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from envmgr.errors import EnvmgrError
from envmgr.service import places, runtime
from envmgr.store import opening, publication
from envmgr.version import __version__

_PROPERTIES = ("LoadState", "ActiveState", "SubState", "UnitFileState", "MainPID", "NRestarts", "StatusText", "Result")


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit in systemd's own words; empty where systemd does not run."""

    name: str
    load: str
    active: str
    sub: str
    enabled: str
    pid: int | None
    restarts: int
    says: str
    result: str


@dataclass(frozen=True, slots=True)
class State:
    """`version` is what new processes of the service start; `mode` and `group` are the socket's."""

    prefix: str | None
    version: str | None
    this_version: str
    units: tuple[Unit, ...]
    socket: str
    has_socket: bool
    mode: str | None
    group: str | None
    root: str
    owner_uid: int | None
    environments: int | None

    @property
    def is_installed(self) -> bool:
        return self.prefix is not None

    @property
    def owner(self) -> str | None:
        """The store's owner in words; ``None`` without a store."""
        if self.owner_uid is None:
            return None
        try:
            return pwd.getpwuid(self.owner_uid).pw_name
        except KeyError:
            return f"uid {self.owner_uid}"

    def to_json(self) -> Mapping[str, object]:
        return {"is_installed": self.is_installed, **asdict(self), "units": [asdict(unit) for unit in self.units]}


def look() -> State:
    """Return the state of the service; never raises for what is not there."""
    prefix = places.installed_prefix()
    owner = environments = mode = group = None
    with contextlib.suppress(EnvmgrError, OSError):
        layout = opening.open_for_reading(places.STORE)
        if layout is not None:
            owner = opening.owner(layout)[0]
            environments = len(publication.published(layout))
    with contextlib.suppress(OSError):
        status = os.stat(places.SOCKET)
        mode = f"{stat.S_IMODE(status.st_mode):04o}"
        group = str(status.st_gid)
        with contextlib.suppress(KeyError):
            group = grp.getgrgid(status.st_gid).gr_name
    return State(
        prefix=None if prefix is None else str(prefix),
        version=None if prefix is None else runtime.version_of(prefix),
        this_version=__version__,
        units=tuple(map(_unit, (places.SERVICE_UNIT, places.SOCKET_UNIT))),
        socket=str(places.SOCKET),
        has_socket=mode is not None,
        mode=mode,
        group=group,
        root=str(places.STORE),
        owner_uid=owner,
        environments=environments,
    )


def _unit(name: str) -> Unit:
    found: dict[str, str] = {}
    systemctl = shutil.which("systemctl")
    if systemctl is not None and Path("/run/systemd/system").is_dir():
        command = [systemctl, "show", f"--property={','.join(_PROPERTIES)}", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = {key: value for key, _, value in (line.partition("=") for line in done.stdout.splitlines())}
    pid = int(found.get("MainPID") or 0)
    return Unit(
        name=name,
        load=found.get("LoadState", ""),
        active=found.get("ActiveState", ""),
        sub=found.get("SubState", ""),
        enabled=found.get("UnitFileState", ""),
        pid=pid or None,
        restarts=int(found.get("NRestarts") or 0),
        says=found.get("StatusText", ""),
        result=found.get("Result", ""),
    )
