"""Which interpreter the service runs: this process's own where the service's user can start it, else a copy of it.

Below a home directory, or below a directory that others may not search, it cannot; and where its files, or a directory
on their way, belong to somebody else than root, he could let the service run what he likes. Then an interpreter that
lies whole below one prefix (built from source, pyenv, uv) is copied. One of a conda environment is refused: its
libraries lie scattered among those of the environment's other packages.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from envmgr.errors import PermissionRefused

VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"

# The unit hides these from the service (ProtectHome=, PrivateTmp=).
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - they are looked for, not used
_UNNEEDED = ("site-packages", "test", "tests", "idlelib", "turtledemo", "tkinter", "lib2to3", "ensurepip")


def executable() -> Path:
    """Return the real path of the interpreter that runs this, outside of any virtual environment."""
    return Path(os.path.realpath(sys.executable))


def is_startable_by_others(program: Path) -> bool:
    """Tell whether every user may execute `program`, none but root can change it, and the unit lets it be seen."""
    if any(str(program).startswith(f"{place}/") for place in _HIDDEN):
        return False
    return all(map(is_open_and_roots, (program, *program.parents)))


def is_open_and_roots(path: Path) -> bool:
    """Tell whether every user may read and execute (or search) `path`, and not every user, but root, may change it."""
    status = path.stat()
    return status.st_mode & 0o007 == 0o005 and status.st_uid == 0


def standard_library() -> Path:
    return Path(os.__file__).resolve().parent


def provide(directory: Path) -> Path:
    """Return the interpreter for the installation in `directory`, copied to ``python`` there if need be."""
    program = executable()
    is_of_installation = program.is_relative_to(directory.parent)  # which an upgrade removes some day
    if not is_of_installation and all(map(is_startable_by_others, (program, standard_library()))):
        return program
    base = Path(os.path.realpath(sys.base_prefix))
    if (base / "conda-meta").is_dir() or standard_library() != base / "lib" / VERSION:
        raise PermissionRefused(
            f"the service's user cannot start the interpreter {program}, and it cannot be copied as a whole",
            hint="install envmgr with an interpreter outside of home directories (/usr/bin/python3 -m venv /opt/…), "
            "and run that envmgr's service install",
        )
    copy = directory / "python"
    (copy / "bin").mkdir(parents=True, mode=0o755)
    (copy / "bin" / VERSION).write_bytes(_relocated(program.read_bytes(), base / "lib"))
    (copy / "bin" / VERSION).chmod(0o755)
    for library in (base / "lib").glob("libpython*.so*"):
        copy_file(library, copy / "lib" / library.name)
    copy_tree(standard_library(), copy / "lib" / VERSION, (*_UNNEEDED, f"config-{VERSION[6:]}*"))
    return copy / "bin" / VERSION


def _relocated(program: bytes, libraries: Path) -> bytes:
    """Let a program look for its shared libraries beside itself instead of in a directory that the service cannot see.

    Else it would find another libpython of the same name, the distribution's. The search path is changed where it
    stands, filled up with slashes to its old length; see ld.so(8) on ``$ORIGIN``.
    """
    old, new = os.fsencode(libraries), b"$ORIGIN/../lib"
    if len(old) < len(new):
        return program
    return re.sub(rb"(?<=[\0:])" + re.escape(old) + rb"(?=[\0:])", new.ljust(len(old), b"/"), program)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file so that every user may read it; its time stays, by which Python knows its byte-code again."""
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    shutil.copy2(source, target)
    target.chmod(0o755 if source.stat().st_mode & 0o100 else 0o644)


def copy_tree(source: Path, target: Path, unneeded: tuple[str, ...] = ()) -> None:
    """Copy a directory of Python files, without byte-code of other versions and of files that are gone."""
    ignored = shutil.ignore_patterns(*unneeded)
    for where, directories, files in os.walk(source):
        # What is unneeded stands at the top; deeper, the same word may be a package's own.
        if where == str(source):
            directories[:] = sorted(set(directories) - ignored(where, directories))
        for name in files:
            path = Path(where, name)
            if path.suffix != ".pyc" or _is_compiled(path):
                copy_file(path, target / path.relative_to(source))


def _is_compiled(path: Path) -> bool:
    """Tell whether this is the byte-code that this interpreter made of a file that is there."""
    stem, _, tag = path.stem.partition(".")
    return tag == sys.implementation.cache_tag and path.parent.with_name(f"{stem}.py").is_file()
