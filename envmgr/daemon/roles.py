"""What only administrators may do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from envmgr.errors import PermissionRefused

if TYPE_CHECKING:
    from envmgr.model import Caller


def only_admin(caller: Caller, what: str) -> None:
    """Raise `PermissionRefused` unless `caller` is an administrator; `what` goes behind "only an administrator"."""
    if caller.role != "admin":
        raise PermissionRefused(
            f"only an administrator {what}; {caller.user} is none",
            hint="root, the store's owner and the members of the group in setting admin_group are",
            rule="admin",
            setting="admin_group",
        )
