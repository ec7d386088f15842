"""Solves the pip section against a linked prefix, and picks one artifact for each package.

Building from source runs code of the package's author, so it is bounded: by the site (``allow_sdists``) and by the
spec (``--only-binary``, ``--prefer-binary``). uv knows "no sources at all" with exceptions, where an exception means
"from source only". So where sources are bounded, uv first gets no exception; as long as it says which package has no
usable wheel, and that one may be built, it becomes an exception and uv is asked again. Nothing is ever built that may
not be.

Of the wheels that fit the interpreter, the most specific is locked; a source distribution only where there is no
wheel (or where ``--no-binary`` asks for it). What is built from source is built again at each installation, and so is a
package out of version control, which is locked to its commit: both are listed as not reproducible. Of those, the build
takes out again what `envmgr.backends.pip.building` makes a wheel of that is locked by its hash.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from envmgr.backends.pip import platforms
from envmgr.backends.pip.distributions import Distribution, installed, write_stub
from envmgr.backends.pip.interpreter import Interpreter, inspect
from envmgr.backends.pip.options import ALL, format_flags
from envmgr.backends.pip.platforms import Glibc
from envmgr.backends.pip.uv import Runner, Uv, explanation, place, prepared, translate_failure
from envmgr.backends.processes import Finished
from envmgr.backends.processes import run as run_process
from envmgr.errors import BuildFailed, Corrupt, EnvmgrError, PolicyRefused, Unsatisfiable
from envmgr.events import Reporter, ignore
from envmgr.lockfile.urls import strip_credentials
from envmgr.model import LockedPackage
from envmgr.wire.pipe import Network, PipSettings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

_NO_WHEEL = re.compile(
    r"Wheels are required for `([^`]+)` because building from source is disabled"
    r"|Building source distributions for `([^`]+)` is disabled"
)


@dataclass(frozen=True, slots=True)
class Locked:
    """The packages that the pip section adds to conda's, and the names of those that are built at each installation.

    `replaced` names conda packages that the section replaces (only where the setting allows it).
    """

    packages: tuple[LockedPackage, ...]
    not_reproducible: tuple[str, ...]
    replaced: tuple[str, ...] = ()


def lock(
    requirements: Sequence[str],
    *,
    prefix: Path,
    settings: PipSettings,
    network: Network,
    uv_cache: Path,
    exclude_newer: str | None = None,
    subdir: str = "",
    newest_glibc: Glibc | None = None,
    environ: Mapping[str, str] | None = None,
    run: Runner = run_process,
    report: Reporter = ignore,
) -> Locked:
    """Solve `requirements` (lines of a requirements file, each with ``--hash=`` or without) for the linked `prefix`.

    `environ` is added to uv's environment: the activation's variables, which a build from source may need. Nothing is
    installed. With `newest_glibc` it is solved for machines of `subdir` with that glibc, else for this one. Raises
    `Unsatisfiable`, `PolicyRefused`, `ChannelError` and its kinds, `Corrupt`, `BuildFailed`.
    """
    interpreter = dataclasses.replace(inspect(prefix, run=run), newest_glibc=newest_glibc)
    with prepared(
        prefix, settings=settings, network=network, uv_cache=uv_cache, environ=environ or {}, run=run, report=report
    ) as uv:
        solving = _Solving(uv, interpreter, settings, exclude_newer, platforms.flags(subdir, newest_glibc))
        return solving.solve(requirements)


class _Solving:
    """One solution: what is asked of uv, how often, and what its answer means."""

    def __init__(
        self, uv: Uv, interpreter: Interpreter, settings: PipSettings, exclude_newer: str | None, platform: list[str]
    ) -> None:
        self._uv = uv
        self._platform = platform
        self._interpreter = interpreter
        self._settings = settings
        self._exclude_newer = exclude_newer
        self._conda = installed(interpreter.site_packages)
        self._output = uv.scratch / "pylock.toml"

    def solve(self, requirements: Sequence[str]) -> Locked:
        lines = [_without_hashes(line) for line in requirements]
        asked = "".join(f"{self._from_mirror(text)}\n" for text, _ in lines)
        (self._uv.scratch / "requirements.in").write_text(asked, "utf-8")
        self._write_constraints()
        self._compile()
        document = tomllib.loads(self._output.read_text("utf-8"))
        return self._locked(document, _hashes_by_name(lines))

    # ------------------------------------------------------------------------------------------------ what uv is asked

    def _from_mirror(self, requirement: str) -> str:
        """Return a requirement that names a file by its URL with the URL at which the file is to be had."""
        name, at, url = requirement.rpartition(" @ ")
        return f"{name}{at}{self._uv.mirrored(url)}"

    def _write_constraints(self) -> None:
        stubs = self._uv.scratch / "stubs"
        stubs.mkdir()
        for distribution in self._conda.values():
            write_stub(stubs, distribution)
        pins = [f"{item.name}=={item.version}" for item in self._conda.values()]
        lines = list(self._settings.constraints)
        if self._settings.allow_replacing_conda:
            # What is in the output already is what uv prefers: conda's version, where nothing speaks against it.
            entries = "".join(
                f'[[packages]]\nname = "{item.name}"\nversion = "{item.version}"\nwheels = []\n'
                for item in self._conda.values()
            )
            self._output.write_text(f'lock-version = "1.0"\ncreated-by = "envmgr"\n{entries}', "utf-8")
        else:
            lines += pins
        (self._uv.scratch / "constraints.txt").write_text("".join(f"{line}\n" for line in lines), "utf-8")

    def _compile(self) -> None:
        options = self._uv.options
        conda = set(self._conda)
        asked = {name for name in options.no_binary if name not in conda}
        allowed = (
            None if self._settings.allow_sdists is None else set(map(canonicalize_name, self._settings.allow_sdists))
        )
        if allowed is not None and (refused := asked - allowed):
            refuse_sdist(min(refused).replace(ALL, "every package"), "--no-binary asks to build it from source")
        is_bounded = allowed is not None or (options.has_prefer_binary and ALL not in asked)
        if not is_bounded:
            # The stubs of conda's packages have wheels only; a name is uv's exception to :all:.
            only = options.only_binary | (conda if ALL in asked else set())
            self._run(format_flags(asked, only))
            return
        built = set(asked)
        while True:
            finished = self._try(format_flags(built, {ALL}))
            if finished.status == 0:
                return
            name = _without_wheel(finished)
            spec_refuses = name is not None and ({name, ALL} & options.only_binary) and name not in asked
            if name is None or name in built or spec_refuses:
                raise self._failure(finished)
            if allowed is not None and name not in allowed:
                refuse_sdist(name, explanation(finished))
            built.add(name)

    def _run(self, flags: Sequence[str]) -> None:
        finished = self._try(flags)
        if finished.status != 0:
            raise self._failure(finished)

    def _try(self, flags: Sequence[str]) -> Finished:
        uv = self._uv
        stubs = place(str(uv.scratch / "stubs"))
        links = ",".join(filter(None, (uv.environ.get("UV_FIND_LINKS"), stubs)))
        arguments = [
            "requirements.in", "--constraints", "constraints.txt", "--output-file", self._output.name, "--format",
            "pylock.toml", "--quiet", "--no-sources", *self._platform, *uv.options.build_flags, *flags,
        ]  # fmt: skip
        if uv.options.has_pre:
            arguments += ["--prerelease", "allow"]
        if uv.options.has_no_deps:
            arguments.append("--no-deps")
        if uv.options.has_no_index:
            arguments.append("--no-index")
        if self._exclude_newer:
            arguments += ["--exclude-newer", self._exclude_newer]
        return uv.with_find_links(links).pip("compile", *arguments, phase="pip-lock")

    def _failure(self, finished: Finished) -> EnvmgrError:
        error = translate_failure(finished, "the pip section cannot be solved")
        if not isinstance(error, Unsatisfiable):
            return error
        involved = sorted(item.name for item in self._conda.values() if f"{item.name}=={item.version}" in error.message)
        if involved and not self._settings.allow_replacing_conda:
            error.hint = (
                f"conda installed {', '.join(involved)}: ask conda for a version that fits, or let the pip section"
                " replace conda's packages with the setting allow_replacing_conda"
            )
            error.fields["conda_packages"] = involved
        return error

    # ------------------------------------------------------------------------------------------------- what uv answered

    def _locked(self, document: Mapping[str, Any], hashes: Mapping[NormalizedName, frozenset[str]]) -> Locked:
        packages: list[LockedPackage] = []
        fragile: list[str] = []
        replaced: list[NormalizedName] = []
        for entry in document.get("packages", ()):
            name = canonicalize_name(entry["name"])
            conda = self._conda.get(name)
            if conda is not None and _same_version(conda, entry):
                continue
            if conda is not None:
                replaced.append(name)
            package, is_built = self._package(name, entry, hashes.get(name, frozenset()))
            packages.append(package)
            if is_built:
                fragile.append(name)
        return Locked(tuple(packages), tuple(sorted(fragile)), tuple(sorted(replaced)))

    def _package(
        self, name: NormalizedName, entry: Mapping[str, Any], hashes: frozenset[str]
    ) -> tuple[LockedPackage, bool]:
        version = str(entry.get("version", ""))
        if "vcs" in entry:
            check_sdist(name, self._settings)
            return LockedPackage(
                "pip", name, version or "0", self._vcs_url(entry["vcs"]), None, None, None, None, ()
            ), True
        if "directory" in entry:
            raise BuildFailed(f"the pip section installs {name} from a directory, which no other host has")
        artifact, is_wheel = self._artifact(name, entry, hashes)
        if not is_wheel:
            check_sdist(name, self._settings)
        url = self._uv.canonical(strip_credentials(_address(artifact, self._uv.scratch)))
        sha256 = artifact.get("hashes", {}).get("sha256")
        if not sha256:
            raise Corrupt(f"the index gives no sha256 for {url}, so {name} cannot be locked")
        return LockedPackage("pip", name, version or "0", url, str(sha256), None, None, None, ()), not is_wheel

    def _artifact(
        self, name: NormalizedName, entry: Mapping[str, Any], hashes: frozenset[str]
    ) -> tuple[Mapping[str, Any], bool]:
        """Return the artifact to lock, and whether it is a wheel."""
        if "archive" in entry:
            candidates = [(entry["archive"], file_name(entry["archive"]).endswith(".whl"))]
        else:
            ranked = [(self._interpreter.wheel_rank(file_name(wheel)), wheel) for wheel in entry.get("wheels", ())]
            fitting = sorted(
                ((rank, file_name(wheel)), index) for index, (rank, wheel) in enumerate(ranked) if rank is not None
            )
            candidates = [(ranked[index][1], True) for _, index in fitting]
            if "sdist" in entry:
                candidates.append((entry["sdist"], False))
            if {name, ALL} & self._uv.options.no_binary and any(not is_wheel for _, is_wheel in candidates):
                candidates = [(artifact, is_wheel) for artifact, is_wheel in candidates if not is_wheel]
        if not candidates:
            raise Unsatisfiable(f"{name} {entry.get('version')} has neither a wheel for this interpreter nor sources")
        if not hashes:
            return candidates[0]
        for artifact, is_wheel in candidates:
            if any(f"{kind}:{value}" in hashes for kind, value in artifact.get("hashes", {}).items()):
                return artifact, is_wheel
        raise Corrupt(
            f"no file of {name} {entry.get('version')} that fits has a hash that the spec names",
            hint="the index gives other bytes, or the hash is that of a file for another platform",
        )

    def _vcs_url(self, vcs: Mapping[str, Any]) -> str:
        address = strip_credentials(_address(vcs, self._uv.scratch))
        subdirectory = f"#subdirectory={vcs['subdirectory']}" if vcs.get("subdirectory") else ""
        return f"{vcs['type']}+{address}@{vcs['commit-id']}{subdirectory}"


def check_sdist(name: str, settings: PipSettings) -> None:
    """Raise `PolicyRefused` unless `name` may be built from source."""
    allowed = settings.allow_sdists
    if allowed is not None and canonicalize_name(name) not in set(map(canonicalize_name, allowed)):
        refuse_sdist(name, "it has no wheel for this interpreter, or comes out of version control")


def refuse_sdist(name: str, why: str) -> NoReturn:
    raise PolicyRefused(
        f"the pip section needs to build {name} from source, which the setting allow_sdists does not allow here: {why}",
        hint=f"ask for a version with a wheel, or have {name} added to the setting allow_sdists",
        package=name,
        setting="allow_sdists",
    )


def _without_wheel(finished: Finished) -> NormalizedName | None:
    match = _NO_WHEEL.search(finished.text)
    return canonicalize_name(match.group(1) or match.group(2)) if match else None


def _same_version(conda: Distribution, entry: Mapping[str, Any]) -> bool:
    return "version" in entry and Version(str(entry["version"])) == conda.version


def _without_hashes(line: str) -> tuple[str, frozenset[str]]:
    requirement, *hashes = re.split(r"\s+--hash[=\s]", line)
    return requirement.strip(), frozenset(item.strip().lower() for item in hashes)


def _hashes_by_name(lines: Sequence[tuple[str, frozenset[str]]]) -> dict[NormalizedName, frozenset[str]]:
    return {name: hashes for text, hashes in lines if hashes for name in _name_of(text)}


def _name_of(requirement: str) -> Iterator[NormalizedName]:
    try:
        yield canonicalize_name(Requirement(requirement).name)
    except InvalidRequirement:
        return


def file_name(artifact: Mapping[str, Any]) -> str:
    """Return the file's name of an entry of a pylock."""
    return str(
        artifact.get("name") or unquote(urlsplit(str(artifact.get("url") or artifact["path"])).path).rsplit("/")[-1]
    )


def _address(artifact: Mapping[str, Any], base: Path) -> str:
    if "url" in artifact:
        return str(artifact["url"])
    return (base / str(artifact["path"])).resolve().as_uri()
