"""Who is at the other end of a unix socket, as the kernel says, and what he may do.

The kernel notes the peer's user and groups when he connects; neither a namespace nor a later change of his touches
them. Admins are root, the store's owner, and the members of the setting ``admin_group``: by a group of the peer's, or
by the group's list of members (for who was added after he logged in).

Names of users and groups may come from a directory service and take their time, so answers are kept for `KEPT_S`, and
`Callers.known` never asks.

Not promised: a meaning for the pid; it may be another process's by the time somebody reads it.

Source: unix(7), SO_PEERCRED; SO_PEERGROUPS is socket(7)'s neighbour that only the kernel's source describes.
"""

from __future__ import annotations

import dataclasses
import grp
import pwd
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from envmgr.errors import PermissionRefused, UsageError
from envmgr.model import Caller
from envmgr.ports import Clock

KEPT_S = 60.0
_SO_PEERGROUPS = 59
_MOST_GROUPS_BYTES = 1024
"""Python reads no more of a socket's option; 256 groups."""
_MOST_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Peer:
    """A process at the other end of a unix socket; `groups` has the primary one, too."""

    pid: int
    uid: int
    groups: frozenset[int]


def of_socket(connection: socket.socket) -> Peer | None:
    """Return the peer of a connected unix socket, ``None`` of any other."""
    if connection.family != socket.AF_UNIX:
        return None
    pid, uid, gid = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        found = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_GROUPS_BYTES)
    except OSError:  # more groups than Python can be told of: only the primary one counts
        found = b""
    return Peer(pid, uid, frozenset({gid, *struct.unpack(f"{len(found) // 4}I", found)}))


def group_id(name: str, setting: str) -> int:
    """Return the id of a group that a setting names; `UsageError` when the host has none of that name."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise UsageError(
            f"setting {setting} names the group {name!r}, which this host does not have", setting=setting
        ) from None


@dataclass(frozen=True, slots=True)
class Groups:
    """The names of the groups that the settings give rights to."""

    use: str | None
    admin: str | None


class Callers:
    """From peers to callers, for the store's owner; `forget` when settings changed."""

    def __init__(self, owner_uid: int, groups: Callable[[], Groups], clock: Clock) -> None:
        self._owner_uid = owner_uid
        self._groups = groups
        self._clock = clock
        self._kept: dict[tuple[int, frozenset[int]], tuple[float, Caller | PermissionRefused]] = {}

    def forget(self) -> None:
        self._kept.clear()

    def known(self, peer: Peer) -> Caller | PermissionRefused | None:
        """Return what `look_up` found for such a peer a short while ago, or ``None``; never blocks."""
        kept = self._kept.get((peer.uid, peer.groups))
        if kept is None or self._clock.monotonic() > kept[0]:
            return None
        found = kept[1]
        return found if isinstance(found, PermissionRefused) else dataclasses.replace(found, pid=peer.pid)

    def look_up(self, peer: Peer) -> Caller | PermissionRefused:
        """Return who a peer is, or why he may not ask; may block on the host's directory of users."""
        groups = self._groups()
        try:
            user = pwd.getpwuid(peer.uid).pw_name
        except KeyError:  # such as a user of a container
            user = str(peer.uid)
        is_admin = peer.uid in (0, self._owner_uid) or _is_member(peer, user, groups.admin)
        found: Caller | PermissionRefused
        if is_admin or groups.use is None or _is_member(peer, user, groups.use):
            found = Caller(user=user, role="admin" if is_admin else "use", uid=peer.uid, pid=peer.pid)
        else:
            found = PermissionRefused(
                f"user {user} is not in group {groups.use}, whose members may use this daemon",
                hint="setting use_group",
                rule="use-group",
                setting="use_group",
            )
        if len(self._kept) >= _MOST_KEPT:
            self._kept.clear()
        self._kept[peer.uid, peer.groups] = self._clock.monotonic() + KEPT_S, found
        return found


def _is_member(peer: Peer, user: str, group: str | None) -> bool:
    if group is None:
        return False
    try:
        entry = grp.getgrnam(group)
    except KeyError:  # removed since the daemon began
        return False
    return entry.gr_gid in peer.groups or user in entry.gr_mem
