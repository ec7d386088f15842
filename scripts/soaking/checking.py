"""What must hold when everybody has gone.

After a round, with the daemon running and nobody asking: no operation goes on, the daemon has no children, no other
process works in the directory, every published environment is byte for byte what was recorded, no build is there that
is not published, the trash is empty, and nobody but the daemon holds a lock or a lease (it keeps what it handed over
for some seconds). After its end, nobody does.

Things that end in the background (deleting, a builder's last moment) get `SETTLE_S` to do so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from envmgr.errors import EnvmgrError
from envmgr.store import publication, sweep, usage
from envmgr.store.layout import Layout
from soaking.place import Place, Violation

SETTLE_S = 20.0
_PAUSE_S = 0.1


def check_round(place: Place) -> None:
    """Check with the daemon running; raises `Violation`."""
    place.ensure_daemon()
    _settled("operations go on", lambda: _going(place))
    _settled("the daemon has children", lambda: [str(process) for process in place.builders()])
    _settled("processes are left", lambda: _processes(place, {place.pid}))
    _settled("builds are left", lambda: _unpublished(place))
    _settled("the trash is full", lambda: os.listdir(Layout(place.root).trash))
    _settled("locks are held", lambda: _held(place, {place.pid}))
    check_whole(place)


def check_end(place: Place) -> None:
    """Check after the daemon's end; raises `Violation`."""
    _settled("processes are left", lambda: _processes(place, set()))
    _settled("locks are held", lambda: _held(place, set()))
    if os.path.lexists(place.root / "socket"):
        raise Violation("the daemon left its socket's link behind")
    check_whole(place)


def check_whole(place: Place) -> None:
    """Compare every file of every environment with what was recorded."""
    manager = place.manager()
    for name in publication.published(Layout(place.root)):
        try:
            damages = manager.verify(name)
        except EnvmgrError as error:
            raise Violation(f"{name} cannot be verified: {error}") from error
        if damages:
            raise Violation(f"{name} is damaged: {damages[0].path} {damages[0].message}")


def _settled(what: str, look: Callable[[], list[str]]) -> None:
    until = time.monotonic() + SETTLE_S
    while found := look():
        if time.monotonic() > until:
            raise Violation(f"{what}: {', '.join(found)}")
        time.sleep(_PAUSE_S)


def _going(place: Place) -> list[str]:
    operations = place.ask("GET", "/v1/operations").document["operations"]
    return [f"{it['kind']} {it['name']} {it['state']}" for it in operations if it["state"] in ("queued", "running")]


def _processes(place: Place, allowed: set[int | None]) -> list[str]:
    """Return the processes that work in the directory: by their command, their variables or where they are."""
    inside, found = str(place.directory), []
    for process in psutil.process_iter():
        if process.pid == os.getpid() or process.pid in allowed:
            continue
        try:
            words = [*process.cmdline(), *process.environ().values(), process.cwd()]
        except psutil.Error:
            continue
        if any(inside in word for word in words):
            found.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
    return found


def _unpublished(place: Place) -> list[str]:
    layout = Layout(place.root)
    published = set(publication.published(layout).values())
    return [build for build in sweep.all_builds(layout) if build not in published]


def _held(place: Place, allowed: set[int | None]) -> list[str]:
    layout = Layout(place.root)
    paths: list[Path] = [layout.build(build).lease for build in sweep.all_builds(layout)]
    paths += layout.locks.iterdir()
    paths += [path for path in (layout.packages / "locks", layout.packages / ".use") if path.is_file()]
    return [
        f"{path} by {user.pid} {user.command}"
        for path, users in usage.lock_holders(paths).items()
        for user in users
        if user.pid not in allowed
    ]
