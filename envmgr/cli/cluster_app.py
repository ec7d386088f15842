"""The list of the commands below ``envmgr cluster``."""

from __future__ import annotations

from collections.abc import Callable

import typer

from envmgr.cli.commands import cluster, cluster_intent, cluster_looking
from envmgr.cli.groups import Command, group

whole = group("Say what every host of the cluster has, and see how they do.")
_alias = group("Set, list and drop aliases of the cluster.")

_COMMANDS: tuple[tuple[typer.Typer, str, Callable[..., int | None]], ...] = (
    (whole, "create", cluster.create),
    (whole, "remove", cluster.remove),
    (whole, "status", cluster_looking.status),
    (whole, "hosts", cluster_looking.hosts),
    (whole, "show", cluster_looking.show),
    (whole, "why", cluster_looking.why),
    (whole, "retry", cluster.retry),
    (whole, "heal", cluster.heal),
    (whole, "cordon", cluster.cordon),
    (whole, "uncordon", cluster.uncordon),
    (whole, "forget", cluster.forget),
    (whole, "relock", cluster.relock),
    (whole, "settings", cluster_intent.settings),
    (whole, "export", cluster_intent.export),
    (whole, "import", cluster_intent.import_),
    (_alias, "set", cluster_intent.set_alias),
    (_alias, "list", cluster_intent.list_aliases),
    (_alias, "remove", cluster_intent.remove_alias),
)

for _parent, _name, _function in _COMMANDS:
    _parent.command(_name, cls=Command)(_function)
whole.add_typer(_alias, name="alias")
