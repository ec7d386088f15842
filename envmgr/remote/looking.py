"""What is there, as the daemon sees it: with its rights it sees every user of an environment, and every build.

For `list` and `show`; nobody waits long for it, since everybody can look for himself, and sees all but that: so where
no daemon answers in time, that is done instead. It reads the answer without `envmgr.wire.socket`, whose many records
take longer to import than ``envmgr list`` has left.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from envmgr import codec
from envmgr.errors import DaemonUnavailable, PermissionRefused
from envmgr.manager import inspection
from envmgr.model import EnvironmentInfo
from envmgr.remote.connection import Connection, Patience
from envmgr.store import opening
from envmgr.store.layout import Layout
from envmgr.wire import address

if TYPE_CHECKING:
    from envmgr.names import EnvName

T = TypeVar("T")

_PATIENCE = Patience(connect_s=0.5, answer_s=2.0)


def list_all(root: str) -> tuple[EnvironmentInfo, ...]:
    """Return every environment of the store at `root`."""
    found = _ask(root, "/v1/environments", lambda data: tuple(map(_info, data["environments"])))
    return inspection.list_all(_layout(root)) if found is None else found


def show(root: str, name: EnvName) -> EnvironmentInfo:
    """Return one environment; raises `EnvironmentNotFound`."""
    found = _ask(root, f"/v1/environments/{name}", _info)
    return inspection.show(_layout(root), name) if found is None else found


def _layout(root: str) -> Layout:
    path = Path(root)
    return opening.open_for_reading(path) or Layout(path)


def _ask(root: str, target: str, read: Callable[[dict[str, Any]], T]) -> T | None:
    path = address.socket_of(root)
    if path is None:
        return None
    try:
        with Connection(path, patience=_PATIENCE, is_patient=False) as connection:
            return read(connection.ask("GET", target))
    except (DaemonUnavailable, PermissionRefused):
        return None
    except (ValueError, KeyError, TypeError):
        return None  # of another version, which says something that this one cannot read


def _info(document: dict[str, Any]) -> EnvironmentInfo:
    prefix, failure = document["prefix"], document["failure"]
    return codec.load(
        EnvironmentInfo,
        {
            **document,
            "path": Path(document["path"]),
            "prefix": None if prefix is None else Path(prefix),
            "failure": None if failure is None else {**failure, "name": document["name"], "log": ""},
        },
    )
