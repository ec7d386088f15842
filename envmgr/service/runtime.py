"""Makes an installation of envmgr that the service's user can start, from the one that runs this.

A virtual environment of the interpreter that `envmgr.service.interpreter` provides, with envmgr and every distribution
that it needs, file by file as their RECORDs list them; byte-code included, so that nobody compiles at start-up.
A failed try leaves at most a directory in ``versions/`` that `current` does not lead to; the next one removes it.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import envmgr
from envmgr.errors import EnvmgrError
from envmgr.service import interpreter
from envmgr.version import __version__

_SCRIPT = "#!{python} -I\nfrom envmgr.cli import run_and_exit\nrun_and_exit()\n"
_TRIAL = """\
import ssl, sqlite3, ctypes, zlib, sys
import conda_lock, rattler, uv
import envmgr.cli.app, envmgr.daemon.server
uv.find_uv_bin()
sys.exit(sys.version != sys.argv[1] and "it is " + sys.version)
"""


def make(prefix: Path, user: pwd.struct_passwd) -> Path:
    """Make ``<prefix>/versions/<version>-<n>`` and try it as `user`; return it."""
    versions = prefix / "versions"
    versions.mkdir(mode=0o755, parents=True, exist_ok=True)
    _clean(prefix)
    taken = [int(path.name.rpartition("-")[2]) for path in versions.glob(f"{__version__}-*")]
    directory = versions / f"{__version__}-{max(taken, default=0) + 1}"
    directory.mkdir(mode=0o755)
    python = _virtual_environment(directory, interpreter.provide(directory))
    site = _site(directory)
    for distribution in _needed("envmgr"):
        _copy_distribution(distribution, site, directory / "bin")
    interpreter.copy_tree(Path(envmgr.__file__).parent, site / "envmgr")
    _write_commands(directory, python)
    _run([python, "-I", "-m", "compileall", "-q", "-j", "0", directory], tolerated=(1,))
    _run([python, "-I", "-c", _TRIAL, sys.version], user=user)
    os.sync()
    return directory


def version_of(prefix: Path) -> str | None:
    """Return the name of the version that `current` leads to, or ``None``."""
    try:
        return Path(os.readlink(prefix / "current")).name
    except OSError:
        return None


def _clean(prefix: Path) -> None:
    """Remove all versions but the current one, which is about to become the one before: something may run from it."""
    kept = version_of(prefix)
    for directory in (prefix / "versions").iterdir():
        if directory.name != kept:
            shutil.rmtree(directory)


def _virtual_environment(directory: Path, program: Path) -> Path:
    """Lay out a virtual environment as venv(1) does; return its interpreter."""
    (directory / "bin").mkdir(mode=0o755)
    (directory / "bin" / "python").symlink_to(program)
    for name in ("python3", interpreter.VERSION):
        (directory / "bin" / name).symlink_to("python")
    _site(directory).mkdir(mode=0o755, parents=True)
    if sys.platlibdir != "lib":
        (directory / sys.platlibdir).symlink_to("lib")
    (directory / "pyvenv.cfg").write_text(
        f"home = {program.parent}\ninclude-system-site-packages = false\nversion = {sys.version.split()[0]}\n"
    )
    return directory / "bin" / "python"


def _site(directory: Path) -> Path:
    return directory / "lib" / interpreter.VERSION / "site-packages"


def _needed(name: str) -> Iterator[metadata.Distribution]:
    """Yield a distribution and all that it needs here, with the extras that are asked for."""
    waiting: list[tuple[str, frozenset[str]]] = [(name, frozenset())]
    seen: set[tuple[str, frozenset[str]]] = set()
    names: set[str] = set()
    while waiting:
        item = waiting.pop()
        if item in seen:
            continue
        seen.add(item)
        name, extras = item
        distribution = metadata.distribution(name)
        if name not in names:
            names.add(name)
            yield distribution
        for line in distribution.requires or ():
            needed = Requirement(line)
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in (extras or {""})):
                waiting.append((canonicalize_name(needed.name), frozenset(needed.extras)))


def _copy_distribution(distribution: metadata.Distribution, site: Path, scripts: Path) -> None:
    """Copy a distribution's files; of its scripts only programs, since the others name their interpreter."""
    name = distribution.metadata["Name"]
    if distribution.files is None:
        raise EnvmgrError(
            f"{name} does not say of which files it consists, so it cannot be copied",
            hint="install envmgr with pip into a virtual environment, and run that envmgr's service install",
        )
    is_own = canonicalize_name(name) == "envmgr"
    for file in distribution.files:
        source = Path(os.path.normpath(str(distribution.locate_file(file))))
        is_outside = ".." in file.parts
        # Of envmgr itself only what is known of it: an editable installation's files lead elsewhere.
        is_wanted = file.parts[0].endswith(".dist-info") and file.name != "direct_url.json" if is_own else True
        if not source.is_file() or (not is_outside and not is_wanted) or file.suffix == ".pyc":
            continue
        if not is_outside:
            interpreter.copy_file(source, site / file)
            cached = source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc"
            if source.suffix == ".py" and cached.is_file():
                interpreter.copy_file(cached, (site / file).parent / "__pycache__" / cached.name)
        elif source.parent == Path(sysconfig.get_path("scripts")) and not is_own and not _is_script(source):
            interpreter.copy_file(source, scripts / source.name)


def _is_script(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"#!"


def _write_commands(directory: Path, python: Path) -> None:
    command = directory / "bin" / "envmgr"
    command.write_text(_SCRIPT.format(python=python))
    command.chmod(0o755)
    launcher = Path(sysconfig.get_path("scripts"), "envmgr-python")
    if not launcher.is_file():
        raise EnvmgrError(f"this installation of envmgr has no {launcher}", hint="install envmgr with pip")
    interpreter.copy_file(launcher, directory / "bin" / "envmgr-python")


def _run(command: list[str | Path], *, user: pwd.struct_passwd | None = None, tolerated: tuple[int, ...] = ()) -> None:
    """Run the new installation, as `user` if given, with none of this process's variables."""
    uid, gid, groups = (None, None, None) if user is None else (user.pw_uid, user.pw_gid, ())
    done = subprocess.run(
        command, env={"PATH": os.defpath}, cwd="/", capture_output=True, text=True, check=False,
        user=uid, group=gid, extra_groups=groups,
    )  # fmt: skip
    if done.returncode not in (0, *tolerated):
        raise EnvmgrError(
            f"the new installation {command[0]} does not start"
            + ("" if user is None else f" for the user {user.pw_name}")
            + f" (exit {done.returncode}): {done.stderr.strip()}",
            hint="what was installed before is untouched; another interpreter may do: "
            "/usr/bin/python3 -m venv, pip install envmgr, and that envmgr's service install",
        )
