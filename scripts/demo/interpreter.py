"""Says what an interpreter is made of, or why it cannot become a package.

An interpreter is fit when everything that belongs to it lies below one prefix in the layout of a plain ``make
install``: ``bin/pythonX.Y``, ``lib/pythonX.Y`` and ``include/pythonX.Y``. A distribution's own interpreter is spread
over the system's directories and patched to know them (Debian: ``dist-packages``), so a copy of it would go on looking
into the machine. One from conda finds its libraries in its own environment, which a copy would lack.

What the copy takes along from outside the prefix are the machine's shared libraries (OpenSSL, SQLite, libffi): the
channel serves this machine and those like it, not every Linux.
"""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from demo.errors import DemoError
from demo.packages import Package

PROBE_TIMEOUT_S = 60
OLDEST = (3, 6)
NEEDED_MODULES = ("ssl", "sqlite3", "ctypes", "lzma", "bz2", "zlib", "venv", "ensurepip")

_HINT = (
    "give --python the path of a CPython built from source (pyenv, python-build, a docker image named `python`), "
    "for example --python ~/.pyenv/versions/3.11.7/bin/python"
)

# Runs in interpreters as old as 3.6, so its language is theirs.
_PROBE = """
import importlib, json, platform, sys, sysconfig
def is_there(name):
    try:
        importlib.import_module(name)
    except Exception:
        return False
    return True
print(json.dumps({
    "implementation": sys.implementation.name,
    "version": platform.python_version(),
    "major_minor": list(sys.version_info[:2]),
    "abiflags": sys.abiflags,
    "is_free_threaded": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    "prefix": sys.base_prefix,
    "exec_prefix": sys.base_exec_prefix,
    "stdlib": sysconfig.get_path("stdlib"),
    "missing": [name for name in sys.argv[1:] if not is_there(name)],
}))
"""


class _Facts(TypedDict):
    """What `_PROBE` prints."""

    implementation: str
    version: str
    major_minor: list[int]
    abiflags: str
    is_free_threaded: bool
    prefix: str
    exec_prefix: str
    stdlib: str
    missing: list[str]


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A CPython that can become a package."""

    prefix: Path
    version: str
    major_minor: tuple[int, int]
    abiflags: str

    @property
    def short_version(self) -> str:
        return f"{self.major_minor[0]}.{self.major_minor[1]}"

    @property
    def executable(self) -> Path:
        return self.prefix / "bin" / f"python{self.short_version}"

    @property
    def abi(self) -> str:
        """The ABI's tag in wheels and in `python_abi`: cp36m, cp37m, cp38, …"""
        return f"cp{self.major_minor[0]}{self.major_minor[1]}{self.abiflags}"

    @property
    def abi_spec(self) -> str:
        """What a package compiled for this interpreter depends on, beside ``python X.Y.*``."""
        return f"python_abi {self.short_version}.* *_{self.abi}"


def inspect(executable: Path) -> Interpreter:
    """Return the interpreter behind ``executable`` (in a virtual environment: its base); `DemoError` if it is unfit."""
    facts = _probe(executable)
    major, minor = facts["major_minor"]
    found = Interpreter(Path(facts["prefix"]).resolve(), facts["version"], (major, minor), facts["abiflags"])
    reason = next(_objections(found, facts), None)
    if reason is not None:
        raise DemoError(f"{executable} cannot become a conda package: {reason}", hint=_HINT)
    return found


def _probe(executable: Path) -> _Facts:
    try:
        done = subprocess.run(
            [str(executable), "-I", "-B", "-c", _PROBE, *NEEDED_MODULES],
            capture_output=True,
            text=True,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DemoError(f"cannot run {executable}: {error}", hint=_HINT) from error
    if done.returncode != 0:
        tail = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise DemoError(
            f"{executable} does not answer as a Python {OLDEST[0]}.{OLDEST[1]} or later would "
            f"(exit {done.returncode}: {' '.join(tail)})",
            hint=_HINT,
        )
    facts: _Facts = json.loads(done.stdout)
    return facts


def _objections(found: Interpreter, facts: _Facts) -> Iterator[str]:
    """Yield each reason why ``found`` cannot become a package, the most telling first."""
    prefix, stdlib = found.prefix, found.prefix / "lib" / f"python{found.short_version}"
    if facts["implementation"] != "cpython":
        yield f"it is {facts['implementation']}, not CPython"
    if found.major_minor < OLDEST:
        yield f"version {found.version} is older than {OLDEST[0]}.{OLDEST[1]}"
    if facts["is_free_threaded"]:
        yield "it is a free-threaded build, whose extension modules have another ABI"
    if (prefix / "conda-meta").is_dir():
        yield f"{prefix} is a conda environment; its python is a package already"
    if (prefix / "lib" / "python3" / "dist-packages").is_dir():
        yield f"it is the distribution's own, spread over {prefix} and patched to use dist-packages"
    if Path(facts["exec_prefix"]).resolve() != prefix:
        yield f"it is split between {prefix} and {facts['exec_prefix']}"
    if Path(facts["stdlib"]).resolve() != stdlib:
        yield f"its standard library is in {facts['stdlib']}, not in {stdlib}"
    if not (stdlib / "lib-dynload").is_dir():
        yield f"it has no {stdlib / 'lib-dynload'}"
    if not found.executable.is_file():
        yield f"there is no {found.executable}"
    if facts["missing"]:
        yield f"it was built without {', '.join(facts['missing'])}"


def package_of(interpreter: Interpreter, glibc: str) -> Package:
    """Return what the package ``python`` says; its files are staged by `demo.staging`."""
    return Package(
        name="python",
        version=interpreter.version,
        build="0_cpython",
        depends=(f"__glibc >={glibc}",),
        run_exports={"noarch": ["python"], "weak": [interpreter.abi_spec]},
        summary="A copy of an interpreter of the machine that made this channel",
    )
