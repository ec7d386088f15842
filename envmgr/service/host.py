"""The only way in which this package changes a host: commands, files and links; each says what it did."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from envmgr.errors import EnvmgrError, PermissionRefused, UsageError


class Host:
    """This machine, as root changes it; `say` is told each step that changed something."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say

    def run(self, *command: str | Path) -> str:
        """Run a command that must succeed; return its output."""
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            what = shlex.join(map(str, command))
            words = (done.stderr or done.stdout).strip()
            raise EnvmgrError(f"{what} failed (exit {done.returncode}): {words}", command=what)
        return done.stdout

    def change(self, *command: str | Path) -> None:
        """Run a command that changes the host, and say so."""
        self.run(*command)
        self.say(shlex.join(map(str, command)))

    def write(self, path: Path, text: str, mode: int = 0o644) -> bool:
        """Write a file in one step, unless it says the same already; tell whether it did not."""
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            return False
        beside = path.with_name(f".{path.name}.new")
        beside.write_text(text, encoding="utf-8")
        beside.chmod(mode)
        os.replace(beside, path)
        self.say(f"wrote {path}")
        return True

    def link(self, path: Path, target: Path) -> None:
        """Let a symbolic link lead to `target`, in one step, unless it does already."""
        if path.is_symlink() and Path(os.readlink(path)) == target:
            return
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.new")
        beside.unlink(missing_ok=True)
        beside.symlink_to(target)
        os.replace(beside, path)
        self.say(f"{path} leads to {target}")

    def remove(self, path: Path) -> None:
        """Remove a file, a link or a whole directory, if it is there."""
        if path.is_symlink() or path.is_file() or path.is_socket():
            path.unlink()
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            return
        self.say(f"removed {path}")


def check_root(what: str) -> None:
    """Raise `PermissionRefused` unless this process is root's, `UsageError` where there is no systemd."""
    if os.geteuid() != 0:
        raise PermissionRefused(
            f"{what} a service of this host needs root",
            hint="sudo " + shlex.join([os.path.abspath(sys.argv[0]), *sys.argv[1:]]),
        )
    if shutil.which("systemctl") is None:
        raise UsageError(f"{what} a service needs systemd, and there is no systemctl here")


def is_booted() -> bool:
    """Tell whether systemd runs this host (sd_booted(3)); while an image is made, it does not."""
    return Path("/run/systemd/system").is_dir()
