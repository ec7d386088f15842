"""Lays a conda home out; see `envmgr.runners.condahome` for what lies where.

Its scripts name the interpreter and the packages of the envmgr that wrote them; of the service's, by way of
``<prefix>/current``, so that an upgrade of the service serves the home, too. Done again, every file and link is
replaced in one step: whoever calls meanwhile gets the old one or the new one, which understand each other.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import envmgr
from envmgr.activation import quoted
from envmgr.backends.conda.executable import DROP_IN_MARK
from envmgr.errors import PermissionRefused, UsageError
from envmgr.service.host import Host
from envmgr.version import __version__

# The path stands unquoted in command lines that the callers build, in first lines of scripts and in lists of paths.
_HOME = re.compile(r"/[A-Za-z0-9._+/@-]{1,200}")


@dataclass(frozen=True, slots=True)
class Installed:
    """Where a home lies, and the root of the store that it answers from."""

    home: Path
    root: Path

    def to_json(self) -> dict[str, object]:
        return {"home": str(self.home), "root": str(self.root), "version": __version__}


def install(directory: Path, root: Path, say: Callable[[str], None]) -> Installed:
    """Make `directory` a conda home of the store at `root`, or replace the files of one that it is.

    The store need not exist. Raises `UsageError` for a directory that holds something else, is another user's, or has
    a path that callers would trip over, and `PermissionRefused` where it cannot be written.
    """
    home = _checked(directory)
    before = os.umask(0o022)  # everybody reads what is installed, whatever the installer's own habit
    try:
        _write(home, root, Host(say))
    except PermissionError as error:
        raise PermissionRefused(
            f"cannot write {error.filename}: permission denied", hint="as root, or choose another directory"
        ) from error
    except OSError as error:
        raise UsageError(f"cannot make {error.filename or home}: {error.strerror}") from error
    finally:
        os.umask(before)
    return Installed(home, root)


def _write(home: Path, root: Path, host: Host) -> None:
    python, packages = _interpreter()
    words = {"@HOME@": str(home), "@ROOT@": quoted(str(root)), "@PYTHON@": quoted(python), "@PACKAGES@": packages}
    home.mkdir(mode=0o755, parents=True, exist_ok=True)
    host.write(home / DROP_IN_MARK, f"A conda home of envmgr's store {root}; removing this directory removes it.\n")
    host.link(home / "envs", root / "envs")
    for path, mode in (("bin/conda", 0o755), ("etc/profile.d/conda.sh", 0o644), ("bin/activate", 0o755)):
        text = (resources.files(__package__) / "home" / Path(path).name).read_text(encoding="utf-8")
        for word, value in words.items():
            text = text.replace(word, value)
        host.write(home / path, text, mode)
    host.link(home / "condabin" / "conda", Path("../bin/conda"))


def _checked(directory: Path) -> Path:
    home = directory.absolute()
    if not _HOME.fullmatch(str(home)) or ".." in home.parts:
        raise UsageError(
            f"{str(home)!r} cannot be a conda home: its path is too long, or not of letters, digits and ._+@- alone",
            hint="the programs that call conda put it into shell text without quotes",
        )
    if home.is_dir() and ((found := home.stat()).st_uid not in (0, os.geteuid()) or found.st_mode & stat.S_IWOTH):
        raise UsageError(
            f"{home} is another user's to change, who then decides what its callers run",
            hint="choose another directory, or make it yours (chown, chmod o-w) and look at what is in it",
        )
    if home.exists() and not (home / DROP_IN_MARK).is_file():
        try:
            is_foreign = any(home.iterdir())
        except NotADirectoryError:
            is_foreign = True
        if is_foreign:
            raise UsageError(f"{home} is there already and no conda home of envmgr", hint="choose an empty directory")
    return home


def _interpreter() -> tuple[str, str]:
    """Return the interpreter of this envmgr, and shell text for the directory of its packages."""
    python, packages = Path(sys.executable), Path(envmgr.__file__).absolute().parent.parent
    for version in python.parents:
        current = version.parent.parent / "current"
        if version.parent.name == "versions" and current.is_symlink():
            # The next version may have an interpreter of another minor version.
            site = packages.relative_to(version).parts
            return str(current / python.relative_to(version)), f"{quoted(str(current))}/lib/python3*/{site[-1]}"
    return str(python), quoted(str(packages))
