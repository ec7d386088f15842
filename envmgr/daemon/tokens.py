"""Who may do what over TCP: a file with a line ``NAME use|admin SHA256`` for each token.

The file has the SHA-256 of the token in hexadecimal digits, never the token. It is read again when it changed. Nobody
but its owner and his group may read or write it: whoever reads the hash of a short token can guess the token, and
whoever writes the file is an admin. Empty lines and those that begin with ``#`` do not count.

A token is compared with every line in constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import stat
from pathlib import Path

from envmgr.errors import EnvmgrError, PermissionRefused, UsageError
from envmgr.model import Caller
from envmgr.wire.socket import Role

_HEX = frozenset("0123456789abcdef")
_ROLES: dict[str, Role] = {"use": "use", "admin": "admin"}
_SCHEME = "bearer "
_log = logging.getLogger(__name__)

_Stamp = tuple[int, int, int]


class Tokens:
    """The tokens of one file; raises `UsageError` or `PermissionRefused` when it cannot be used at the start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp, self._callers = _read(path)

    def caller(self, authorization: str | None) -> Caller | None:
        """Return whose token a header ``Authorization: Bearer …`` brings, or ``None``.

        A file that can no longer be used lets nobody in, and is complained of in the log.
        """
        self._refresh()
        if authorization is None or not authorization.lower().startswith(_SCHEME):
            return None
        digest = hashlib.sha256(authorization[len(_SCHEME) :].strip().encode("utf-8", "surrogateescape")).hexdigest()
        found = None
        for known, caller in self._callers:
            if hmac.compare_digest(known, digest):
                found = caller
        return found

    def _refresh(self) -> None:
        try:
            if _stamp(os.stat(self._path)) != self._stamp:
                self._stamp, self._callers = _read(self._path)
        except (OSError, EnvmgrError) as error:
            if self._callers:
                _log.error("tokens_file cannot be used any more, so nobody gets in over TCP: %s", error)
            self._stamp, self._callers = (0, 0, 0), ()


def _stamp(status: os.stat_result) -> _Stamp:
    return status.st_mtime_ns, status.st_ino, status.st_size


def _read(path: Path) -> tuple[_Stamp, tuple[tuple[str, Caller], ...]]:
    try:
        with path.open(encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            text = file.read()
    except (OSError, ValueError) as error:
        raise UsageError(f"tokens_file {path} cannot be read: {error}", setting="tokens_file") from error
    if status.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise PermissionRefused(
            f"tokens_file {path} has mode {stat.S_IMODE(status.st_mode):04o}: others may read or write it",
            hint=f"chmod 0640 {path}",
            setting="tokens_file",
        )
    lines = enumerate(text.splitlines(), 1)
    return _stamp(status), tuple(
        _entry(path, number, line) for number, line in lines if line.strip() and not line.lstrip().startswith("#")
    )


def _entry(path: Path, number: int, line: str) -> tuple[str, Caller]:
    words = line.split()
    if len(words) != 3 or words[1] not in _ROLES or len(words[2]) != 64 or not _HEX.issuperset(words[2].lower()):
        # The line is not repeated: somebody may have written the token itself.
        raise UsageError(
            f"tokens_file {path}, line {number} is not `NAME use|admin SHA256`",
            hint="SHA256 is what `printf %s TOKEN | sha256sum` prints",
            setting="tokens_file",
        )
    return words[2].lower(), Caller(user=f"token:{words[0]}", role=_ROLES[words[1]])
