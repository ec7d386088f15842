"""How this host reaches the cluster's ZooKeeper, as the settings say.

The password is read from the setting's file once, is never shown by ``repr``, and never stands in the tree.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from envmgr.errors import PermissionRefused, UsageError
from envmgr.settings.kinds import CREDENTIAL

if TYPE_CHECKING:
    from envmgr.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Servers (``host:port``), the node below which all is kept, the session asked for, and who this host is there.

    `auth` is a user and its password (ZooKeeper's scheme ``digest``). `ca_file` turns TLS on; with `cert_file` and
    `key_file` the host shows a certificate (scheme ``x509``).
    """

    servers: tuple[str, ...]
    root: str = "/envmgr"
    session_s: float = 30.0
    auth: tuple[str, str] | None = field(default=None, repr=False)
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


def of_settings(settings: Settings) -> Endpoint | None:
    """Return the endpoint that the settings name, or ``None`` for a host in no cluster.

    Raises `UsageError` with the field ``setting``, or `PermissionRefused` for a file of a password that others read.
    """
    if not settings.zookeeper:
        return None
    has_cert, has_key = settings.zookeeper_cert_file is not None, settings.zookeeper_key_file is not None
    if has_cert != has_key:
        missing = "zookeeper_key_file" if has_cert else "zookeeper_cert_file"
        raise UsageError("a certificate and its private key need each other", hint=f"set {missing}", setting=missing)
    if has_cert and settings.zookeeper_ca_file is None:
        raise UsageError(
            "ZooKeeper's own certificate cannot be checked, so this host's is not shown",
            hint="zookeeper_ca_file names the authorities, and turns TLS on",
            setting="zookeeper_ca_file",
        )
    if settings.zookeeper_session_s < 1:
        raise UsageError(
            f"a session of {settings.zookeeper_session_s:g} s is too short",
            hint="zookeeper_session_s is 1 s or more, and three ticks of the servers or more",
            setting="zookeeper_session_s",
        )
    for key in ("zookeeper_ca_file", "zookeeper_cert_file", "zookeeper_key_file", "zookeeper_auth_file"):
        _check_given(settings, key)
    for key in ("zookeeper_ca_file", "zookeeper_cert_file", "zookeeper_key_file"):
        _check_readable(key, getattr(settings, key))
    auth_file = settings.zookeeper_auth_file
    return Endpoint(
        servers=settings.zookeeper,
        root=settings.zookeeper_root,
        session_s=settings.zookeeper_session_s,
        auth=None if auth_file is None else _read_auth(Path(auth_file)),
        ca_file=settings.zookeeper_ca_file,
        cert_file=settings.zookeeper_cert_file,
        key_file=settings.zookeeper_key_file,
    )


def _check_given(settings: Settings, key: str) -> None:
    path: str | None = getattr(settings, key)
    if path is not None and path.startswith(CREDENTIAL):
        name = path[len(CREDENTIAL) :]
        hint = (
            "zookeeper = [] in its settings.toml: a store of your own that is in no cluster"
            if settings.mode == "personal"
            else f"the daemon has it if its unit loads it: LoadCredential={name}:/its/path"
        )
        raise UsageError(
            f"{settings.source_text(key)}: {path} is given to the service alone; nobody else gets to the cluster by it",
            hint=hint,
            setting=key,
        )


def _check_readable(key: str, path: str | None) -> None:
    if path is not None:
        try:
            Path(path).open("rb").close()
        except OSError as error:
            raise UsageError(f"{key} {path} cannot be read: {error}", setting=key) from error


def _read_auth(path: Path) -> tuple[str, str]:
    key = "zookeeper_auth_file"
    try:
        with path.open(encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            lines = [line for line in file.read().splitlines() if line.strip() and not line.startswith("#")]
    except (OSError, ValueError) as error:
        raise UsageError(f"{key} {path} cannot be read: {error}", setting=key) from error
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise PermissionRefused(
            f"{key} {path} has mode {mode:04o}: others may read or write it", hint=f"chmod 0640 {path}", setting=key
        )
    user, colon, password = lines[0].strip().partition(":") if len(lines) == 1 else ("", "", "")
    if not (user and colon and password):
        raise UsageError(f"{key} {path} is not one line `user:password`", setting=key)  # never shows what it is
    return user, password
