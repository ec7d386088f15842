"""Fetches wheels for one python version and says what conda package each one becomes.

Fetching is left to pip, with the user's own configuration; it resolves for any python version except for one thing:
it evaluates environment markers for the interpreter that runs it. `fetch` corrects that afterwards: it looks up in the
wheels what the wanted version needs, and asks again with what is missing.

One wheel may need different things on different versions of python (``dataclasses; python_version < '3.7'``), while a
conda record has no conditions. `convert` therefore bounds the package's ``python`` to the run of versions that need the
same as the one it is made for; another run gets a package of its own, with another build string.
"""

import configparser
import email.parser
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, platform_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

from demo.errors import DemoError
from demo.interpreter import Interpreter
from demo.packages import Package

PURE = ("pip", "setuptools", "requests", "rich")
"""What every channel has in pure wheels, with all that it needs."""

COMPILED = ("numpy",)
"""What every channel has compiled for each python, where the package index has a wheel; none may need another wheel."""

PIP_TIMEOUT_S = 600

# The versions that a package's conditions are looked at for; a later python gets the answer of the last one.
_MINORS = tuple((3, minor) for minor in range(6, 16))


@dataclass(frozen=True, slots=True)
class Wheel:
    """What a wheel's file says: enough to make a conda package of it."""

    path: Path
    name: str
    version: str
    tags: frozenset[Tag]
    requires_python: SpecifierSet
    requirements: tuple[Requirement, ...]
    scripts: tuple[str, ...]
    summary: str

    @property
    def is_pure(self) -> bool:
        return all(tag.platform == "any" for tag in self.tags)

    def requirements_on(self, major_minor: tuple[int, int]) -> list[Requirement]:
        """Return what this wheel needs on one version of python, without extras."""
        environment = _environment_of(major_minor)
        return [one for one in self.requirements if one.marker is None or one.marker.evaluate(environment)]

    def glibc(self) -> str | None:
        """Return the oldest glibc that one of the wheel's tags admits; ``None`` if it says nothing."""
        modern = [re.match(r"manylinux_(\d+)_(\d+)_", tag.platform) for tag in self.tags]
        versions = [(int(match[1]), int(match[2])) for match in modern if match is not None]
        versions += [(2, 17) for tag in self.tags if tag.platform.startswith("manylinux2014_")]
        return "{}.{}".format(*min(versions)) if versions else None


def _environment_of(major_minor: tuple[int, int]) -> dict[str, str]:
    short = f"{major_minor[0]}.{major_minor[1]}"
    return {
        **{key: str(value) for key, value in default_environment().items()},
        "python_version": short,
        # The latest patch of a version: no package here draws a line within one.
        "python_full_version": f"{short}.99",
        "implementation_name": "cpython",
        "implementation_version": f"{short}.99",
        "extra": "",
    }


def read(path: Path) -> Wheel:
    """Read a wheel's metadata; raises `DemoError` if the file is no wheel."""
    name, version, _, tags = parse_wheel_filename(path.name)
    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
        metadata = next((one for one in members if re.fullmatch(r"[^/]+\.dist-info/METADATA", one)), None)
        if metadata is None:
            raise DemoError(f"{path.name} is not a wheel: it has no METADATA")
        headers = email.parser.Parser().parsestr(archive.read(metadata).decode())
        entry_points = metadata.removesuffix("METADATA") + "entry_points.txt"
        scripts = _console_scripts(archive.read(entry_points).decode()) if entry_points in members else ()
    return Wheel(
        path=path,
        name=name,
        version=str(version),
        tags=tags,
        requires_python=SpecifierSet(headers["Requires-Python"] or ""),
        requirements=tuple(Requirement(line) for line in headers.get_all("Requires-Dist") or ()),
        scripts=scripts,
        summary=(headers["Summary"] or "").strip()[:200],
    )


def _console_scripts(text: str) -> tuple[str, ...]:
    """Return a wheel's commands in the form that conda has for them, ``name = module:function``."""
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # the documented way to keep upper case
    parser.read_string(text)
    if not parser.has_section("console_scripts"):
        return ()
    return tuple(f"{name} = {target.split('[')[0].strip()}" for name, target in parser.items("console_scripts"))


def fetch(interpreter: Interpreter, directory: Path) -> tuple[list[Wheel], list[str]]:
    """Fetch into ``directory`` what the channel has for ``interpreter``; return the wheels and the names without one.

    Blocks on the network, at most `PIP_TIMEOUT_S` for each question.
    """
    wheels = fetch_pure(PURE, interpreter, directory / "pure")
    without = []
    for name in COMPILED:
        wheel = fetch_compiled(name, interpreter, directory / "compiled")
        if wheel is None:
            without.append(name)
        else:
            wheels.append(wheel)
    return wheels, without


def fetch_pure(roots: Sequence[str], interpreter: Interpreter, directory: Path) -> list[Wheel]:
    """Fetch ``roots`` and all that they need on the interpreter's version of python, as pure wheels."""
    wanted: dict[str, str] = {canonicalize_name(name): name for name in roots}
    while True:
        target = directory / f"{len(wanted)}"
        options = ["--implementation", "py", "--abi", "none", "--platform", "any"]
        done = _pip_download(wanted.values(), interpreter, target, options)
        if done.returncode != 0:
            raise DemoError(
                f"pip finds no pure wheels of {', '.join(roots)} for python {interpreter.version}:\n{_errors_of(done)}",
                hint="look at pip's configuration (`python -m pip config list`) and at the network",
            )
        found = {wheel.name: wheel for wheel in map(read, sorted(target.glob("*.whl")))}
        needed, missing = _closure(roots, found, interpreter.major_minor)
        if not missing:
            return [found[name] for name in sorted(needed)]
        wanted.update(missing)


def _closure(
    roots: Iterable[str], found: Mapping[str, Wheel], major_minor: tuple[int, int]
) -> tuple[set[str], dict[str, str]]:
    """Return the names that ``roots`` need in all; and those not found, each with the words that ask for it."""
    needed: set[str] = set()
    missing: dict[str, str] = {}
    queue = [Requirement(root) for root in roots]
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if name in needed:
            continue
        if name not in found:
            missing[name] = f"{name}{requirement.specifier}"
            continue
        needed.add(name)
        queue += found[name].requirements_on(major_minor)
    return needed, missing


def fetch_compiled(name: str, interpreter: Interpreter, directory: Path) -> Wheel | None:
    """Fetch one compiled wheel for this machine; ``None`` if there is none for this version of python.

    pip says the same of a wheel that does not exist and of a package index that does not answer; so call this after
    `fetch_pure` has got an answer.
    """
    options = ["--no-deps", "--implementation", "cp", "--abi", interpreter.abi]
    for tag in platform_tags():
        options += ["--platform", tag]
    done = _pip_download([name], interpreter, directory, options)
    if done.returncode == 0:
        return read(next(iter(directory.glob(f"{name}-*.whl"))))
    if "No matching distribution found" in done.stderr:
        return None
    raise DemoError(f"pip cannot fetch {name} for python {interpreter.version}:\n{_errors_of(done)}")


def _pip_download(
    requirements: Iterable[str], interpreter: Interpreter, directory: Path, options: Sequence[str]
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    command += ["--only-binary", ":all:", "--python-version", interpreter.version, "--dest", str(directory)]
    try:
        return subprocess.run(
            [*command, *options, *requirements],
            env=_index_settings(os.environ),
            capture_output=True,
            text=True,
            timeout=PIP_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DemoError(f"pip has not answered within {PIP_TIMEOUT_S} s", hint="look at the network") from error


def _index_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return ``environment`` with uv's package index for pip, where only uv has been told of one."""
    settings = dict(environment)
    index = environment.get("UV_DEFAULT_INDEX") or environment.get("UV_INDEX_URL")
    if index:
        settings.setdefault("PIP_INDEX_URL", index)
    return settings


def _errors_of(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return "\n".join(lines or done.stderr.splitlines()[-5:])


def convert(wheel: Wheel, interpreter: Interpreter) -> Package:
    """Return the package that ``wheel`` becomes for ``interpreter``.

    A pure wheel's package serves every version of python that the wheel admits, if its needs are the same on all.
    """
    if not wheel.is_pure:
        return _compiled_package(wheel, interpreter)
    runs = _runs_of_equal_needs(wheel)
    own = next((run for run in runs if interpreter.major_minor in run), None)
    if own is None:
        raise DemoError(f"{wheel.path.name} does not admit python {interpreter.version}")
    return _noarch_package(wheel, own)


def _runs_of_equal_needs(wheel: Wheel) -> list[list[tuple[int, int]]]:
    """Return the versions of python that the wheel admits, neighbours with equal needs together."""
    admitted = [minor for minor in _MINORS if wheel.requires_python.contains(f"{minor[0]}.{minor[1]}.99")]
    return [list(run) for _, run in groupby(admitted, key=lambda minor: _conda_specs(wheel.requirements_on(minor)))]


def _noarch_package(wheel: Wheel, minors: Sequence[tuple[int, int]]) -> Package:
    admitted = [minor for run in _runs_of_equal_needs(wheel) for minor in run]
    bounds = [_conda_version(wheel.requires_python)] if str(wheel.requires_python) else []
    build = "py_0"
    if minors[0] != admitted[0]:
        bounds.append(f">={minors[0][0]}.{minors[0][1]}")
    if minors[-1] != admitted[-1]:
        bounds.append(f"<{minors[-1][0]}.{minors[-1][1] + 1}")
    if len(minors) != len(admitted):
        build = f"py{minors[0][0]}{minors[0][1]}_0"
    return Package(
        name=wheel.name,
        version=wheel.version,
        build=build,
        depends=(f"python {','.join(bounds)}".strip(), *_conda_specs(wheel.requirements_on(minors[0]))),
        noarch="python",
        entry_points=wheel.scripts,
        summary=wheel.summary,
    )


def _compiled_package(wheel: Wheel, interpreter: Interpreter) -> Package:
    glibc = wheel.glibc()
    return Package(
        name=wheel.name,
        version=wheel.version,
        build=f"py{interpreter.short_version.replace('.', '')}_0",
        depends=(
            *((f"__glibc >={glibc}",) if glibc else ()),
            f"python {interpreter.short_version}.*",
            interpreter.abi_spec,
            *_conda_specs(wheel.requirements_on(interpreter.major_minor)),
        ),
        summary=wheel.summary,
    )


def _conda_specs(requirements: Iterable[Requirement]) -> tuple[str, ...]:
    # Requirements' extras are dropped: conda has no word for them.
    return tuple(
        sorted(f"{canonicalize_name(one.name)} {_conda_version(one.specifier)}".strip() for one in requirements)
    )


def _conda_version(specifiers: SpecifierSet) -> str:
    """Return version bounds in conda's language, which differs from Python's where a ``.*`` stands."""
    parts = []
    for one in sorted(specifiers, key=str):
        version = one.version
        if one.operator == "==" and version.endswith(".*"):
            parts.append(version)
        elif one.operator == "===":
            parts.append(f"=={version}")
        elif one.operator == "!=":
            parts.append(f"!={version}")
        else:
            parts.append(f"{one.operator}{version.removesuffix('.*')}")
    return ",".join(parts)
