"""Who this host is in its cluster: a name, kept from its first day on; and what tells it from a copy of itself.

::

    <root>/host-<machine>/identity.json       the name under which this machine joined from this store
    <runtime directory>/host-<root>.json      the same, so that a store made anew on a running machine keeps its name

A host is named by the setting ``host_id``, else by its host name when it first joined; it keeps that name when it is
renamed later. The files are this machine's alone: on a shared root each host has its own, and in a copy of a machine's
disk (a cloned image) they are somebody else's. Then

* the copy is another host: it takes its own host name, with the beginning of its machine id behind it where that name
  is somebody's already (`envmgr.agent.membership` decides that, for it takes ZooKeeper to know);
* its store is another store: it gets a new id before anything uses it, since claims on builds are kept by store. A
  store on a shared file system is no copy and keeps its id.

What the copied host has acted on of the cluster's intent, the copy takes over: the environments are on its disk, too.

The machine id is that of machine-id(5), hashed with a word of our own, as that page asks of what goes to a network.
Without one (some containers) the host name stands in for it. Not noticed: a copy with the same machine id. Two such
machines under one name take turns at being it, each telling that it was pushed aside; ``host_id`` keeps them apart.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from envmgr import fsio, ready
from envmgr.errors import UsageError
from envmgr.fsio import Step
from envmgr.store import opening

if TYPE_CHECKING:
    from envmgr.store.layout import Layout

SUFFIX_CHARS = 6
_OURS = b"envmgr-host-1"
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}", re.ASCII)
_MACHINE = re.compile(r"[0-9a-f]{32}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Machine:
    """The computer: its id (hashed, 32 hex digits), the id of this boot, and its host name."""

    id: str
    boot_id: str
    host_name: str


@dataclass(frozen=True, slots=True)
class Identity:
    """This host. `instance` is new with each start; `copied_from` is the host whose disk this one's was copied from.

    Until `is_settled`, it has not joined under its name, and may have to take another one.
    """

    host: str
    machine: Machine
    store_id: str
    instance: str
    is_settled: bool
    copied_from: str | None = None

    def with_suffix(self, digits: str) -> str:
        """Return the name for when somebody else has this host's."""
        return f"{self.host}-{digits[:SUFFIX_CHARS]}"


def machine(host_name: str, *, etc: Path = Path("/etc"), proc: Path = Path("/proc")) -> Machine:
    """Return what is known of this computer."""
    found = _read(etc / "machine-id")
    secret = found.encode() if _MACHINE.fullmatch(found) else f"host name {host_name}".encode()
    digest = hmac.new(_OURS, secret, hashlib.sha256).hexdigest()
    return Machine(digest[:32], _read(proc / "sys/kernel/random/boot_id"), host_name)


def directory(layout: Layout, of: Machine) -> Path:
    """Return where a machine keeps what it knows of itself and its cluster."""
    return layout.root / f"host-{of.id}"


def settle(
    layout: Layout, own: Machine, *, host_id: str | None, is_shared: bool, outside: Path | None = None
) -> Identity:
    """Return who this host is, and make a copied store its own; under the daemon's lock, before anything else.

    `outside` is the runtime directory. Raises `UsageError` for a ``host_id`` that cannot name a host.
    """
    kept = _kept(directory(layout, own) / "identity.json", own)
    copied_from = None
    if kept is None and not is_shared:
        copied_from = _make_own(layout, own)
    if kept is None and copied_from is None and outside is not None:
        kept = _kept(_outside(layout, outside), own)
    if host_id is not None and not _HOST.fullmatch(host_id):
        raise UsageError(
            f"{host_id!r} cannot name a host", hint="setting host_id: letters, digits, '.', '_', '-'", setting="host_id"
        )
    name = host_id or kept or re.sub(r"[^A-Za-z0-9._-]", "-", own.host_name).lstrip("._-")[:200] or "host"
    store_id = opening.store_id(layout)
    own_names = (host_id, *(f"{host_id}-{digits[:SUFFIX_CHARS]}" for digits in (own.id, store_id)))
    is_settled = kept is not None and (host_id is None or kept in own_names)
    return Identity(
        host=kept if is_settled and kept is not None else name,
        machine=own,
        store_id=store_id,
        instance=secrets.token_hex(8),
        is_settled=is_settled,
        copied_from=copied_from,
    )


def name_of(layout: Layout, own: Machine, host_id: str | None) -> str:
    """Return what this host is called in its cluster, as far as is known; for what only tells it to people."""
    return _kept(directory(layout, own) / "identity.json", own) or host_id or own.host_name


def keep(layout: Layout, identity: Identity, outside: Path | None = None) -> None:
    """Remember for good under which name this host joined."""
    place = directory(layout, identity.machine)
    fsio.make_directory(Step.STORE, place, parents=True)
    text = json.dumps({"host": identity.host, "machine_id": identity.machine.id}) + "\n"
    fsio.write_file(Step.STORE, place / "identity.json", text.encode())
    if outside is not None:
        # Only a help for a store that is made anew.
        with contextlib.suppress(OSError):
            outside.mkdir(mode=0o700, exist_ok=True)
            fsio.write_file(Step.STORE, _outside(layout, outside), text.encode())


def runtime_directory(layout: Layout) -> Path | None:
    """Return where this store's daemon may leave what ends with the machine's boot."""
    if str(layout.root) == ready.SERVICE_ROOT:
        return Path(ready.SERVICE_SOCKET_DIR)
    own = os.environ.get("XDG_RUNTIME_DIR")
    return Path(own, "envmgr") if own else None


def _make_own(layout: Layout, own: Machine) -> str | None:
    """Make a store that came with another machine's disk this one's; return that host's name, ``None`` if it did not.

    The new id comes first and the notes of the other machine go last: whatever stops it in between, the next start
    finds a copy again, and another new id does no harm.
    """
    mine = directory(layout, own)
    others = sorted(
        (path for path in layout.root.glob("host-*") if path.is_dir()), key=lambda path: path.stat().st_mtime
    )
    if not others or mine.exists():
        return None
    opening.renew_store_id(layout)
    name = str(_load(others[-1] / "identity.json").get("host") or "another host")
    for other in others[:-1]:
        shutil.rmtree(other)
    (others[-1] / "identity.json").unlink(missing_ok=True)
    fsio.sync_directory(others[-1])
    others[-1].rename(mine)
    fsio.sync_directory(layout.root)
    return name


def _kept(path: Path, own: Machine) -> str | None:
    document = _load(path)
    host = document.get("host")
    is_ours = document.get("machine_id") == own.id and isinstance(host, str) and _HOST.fullmatch(host)
    return str(host) if is_ours else None


def _outside(layout: Layout, directory: Path) -> Path:
    return directory / f"host-{hashlib.sha256(os.fsencode(layout.root)).hexdigest()[:16]}.json"


def _load(path: Path) -> dict[str, object]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
