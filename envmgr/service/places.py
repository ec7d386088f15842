"""Where a service's parts lie on a host, and the text of its units."""

from __future__ import annotations

import os
import re
from importlib import resources
from pathlib import Path

from envmgr import ready
from envmgr.errors import UsageError

USER = "envmgr"
PREFIX = Path("/opt/envmgr")
STORE = Path(ready.SERVICE_ROOT)
SOCKET_DIRECTORY = Path(ready.SERVICE_SOCKET_DIR)
SOCKET = SOCKET_DIRECTORY / "envmgr.sock"
UNITS = Path("/etc/systemd/system")
SERVICE_UNIT = "envmgr.service"
SOCKET_UNIT = "envmgr.socket"
USERS_FILE = Path("/etc/sysusers.d/envmgr.conf")
SETTINGS = Path("/etc/envmgr/settings.toml")
COMMANDS = Path("/usr/local/bin")
COMMAND_NAMES = ("envmgr", "envmgr-python")

# A script's first line holds the path of its interpreter: at most 127 bytes on older kernels, and no space.
_PREFIX = re.compile(r"/[A-Za-z0-9._+/-]{1,60}")
_EXEC_START = re.compile(r"^ExecStart=(/\S+)/current/bin/envmgr ", re.MULTILINE)


def checked_prefix(word: str) -> Path:
    """Return the directory that ``--prefix`` names; `UsageError` unless it can stand in units and scripts."""
    path = Path(word)
    if not _PREFIX.fullmatch(word) or ".." in path.parts or path == Path("/"):
        raise UsageError(
            f"--prefix {word!r} is no absolute path of up to 60 letters, digits and ._+-", hint="such as /opt/envmgr"
        )
    return path


def unit_texts(prefix: Path = PREFIX, use_group: str | None = None) -> dict[str, str]:
    """Return unit → text, for this prefix; with `use_group`, only its members (and root) may open the socket."""
    texts = {unit: (resources.files(__package__) / "units" / unit).read_text() for unit in (SERVICE_UNIT, SOCKET_UNIT)}
    texts[SERVICE_UNIT] = texts[SERVICE_UNIT].replace(f"={PREFIX}/", f"={prefix}/")
    if use_group is not None:
        texts[SOCKET_UNIT] = texts[SOCKET_UNIT].replace(
            "SocketMode=0666\n", f"SocketMode=0660\nSocketGroup={use_group}\n"
        )
    return texts


def installed_prefix() -> Path | None:
    """Return the prefix of the service that is installed on this host, or ``None``."""
    try:
        found = _EXEC_START.search((UNITS / SERVICE_UNIT).read_text())
    except OSError:
        return None
    return Path(found[1]) if found else None


def installed_use_group() -> str | None:
    """Return the group that the installed socket belongs to, or ``None`` where everybody may open it."""
    try:
        found = re.search(r"^SocketGroup=(\S+)$", (UNITS / SOCKET_UNIT).read_text(), re.MULTILINE)
    except OSError:
        return None
    return found[1] if found else None


def is_own_link(path: Path, prefix: Path) -> bool:
    """Tell whether a command's path is a link that an installation made; it may lead nowhere."""
    return path.is_symlink() and Path(os.readlink(path)).is_relative_to(prefix)
