"""The cluster's aliases on one host: they win over the host's own, follow the cluster's, and go with them."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from envmgr.errors import EnvmgrError
from envmgr.names import Alias, EnvName

if TYPE_CHECKING:
    from envmgr.agent.hands import Hands


def set_aliases(
    hands: Hands, before: Mapping[str, str], wanted: Mapping[Alias, EnvName], ready: Collection[EnvName]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Set what is wanted of what is `ready` here, and drop what the cluster set `before` and has dropped.

    Return the aliases that are the cluster's here now, and what went wrong. One whose environment is not here yet keeps
    leading where it led.
    """
    ours = dict(before)
    problems = []
    for alias, name in wanted.items():
        if name in ready:
            try:
                if hands.target(alias) != name:  # somebody on this host may have taken it since
                    hands.set_alias(alias, name)
                ours[alias] = name
            except (EnvmgrError, OSError) as error:
                problems.append(f"alias {alias}: {error}")
    for gone in ours.keys() - wanted.keys():
        with contextlib.suppress(EnvmgrError, OSError):
            hands.remove_alias(Alias(gone), EnvName(ours[gone]))
            del ours[gone]
    return ours, tuple(problems)
