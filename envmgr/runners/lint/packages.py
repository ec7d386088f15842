"""What is known of the packages of an environment, by the names that Python's distributions have.

From a build's prefix and from a lockfile each distribution has one version; from a spec, requirements. Conda calls
some distributions otherwise (`_CONDA_NAMES`). A requirement that cannot be judged (an URL, conda's parentheses) allows
any version.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from envmgr.model import Lockfile, Spec
from envmgr.runners.installed import Installed

Source = Literal["environment", "lockfile", "spec"]
PYTHON = "python"
_CONDA_NAMES: Mapping[str, tuple[str, ...]] = {
    "ray-core": ("ray",),
    "ray-default": ("ray",),
    "ray-all": ("ray", "grpcio"),
    "ray-client": ("ray", "grpcio"),
    "ray-serve": ("ray",),
    "pyarrow-core": ("pyarrow",),
    "pyarrow-all": ("pyarrow",),
    "mlflow": ("mlflow", "mlflow-skinny"),
    "mlflow-base": ("mlflow-skinny",),
}
_EXTRAS: Mapping[str, tuple[str, ...]] = {"ray[client]": ("grpcio",), "ray[all]": ("grpcio",)}
_MATCH_SPEC = re.compile(r"(?:.*::)?(?P<name>[^\s\[]+)(?: (?P<version>[^\s\[]+))?.*")


@dataclass(frozen=True, slots=True)
class Known:
    """What is known: per distribution every requirement, of which a version must meet all.

    A requirement is alternatives, one of which must be met; an exact version is one of ``==``.
    """

    source: Source
    requirements: Mapping[str, tuple[tuple[SpecifierSet, ...], ...]]
    versions: Mapping[str, str]

    @property
    def is_exact(self) -> bool:
        return self.source != "spec"

    def names(self, name: str) -> bool:
        """Tell whether a distribution is there, or asked for."""
        return name in self.versions or name in self.requirements

    def allows(self, name: str, version: str) -> bool:
        """Tell whether a distribution may have this version; one that nothing is known of may."""
        if name in self.versions:
            return _same(self.versions[name], version)
        return all(
            any(specifiers.contains(version, prereleases=True) for specifiers in alternatives)
            for alternatives in self.requirements.get(name, ())
        )

    def mentioned(self, name: str) -> set[str]:
        """Return the versions that are asked for by name, of a distribution."""
        texts = {
            specifier.version
            for alternatives in self.requirements.get(name, ())
            for specifiers in alternatives
            for specifier in specifiers
        }
        return {text for text in texts if not text.endswith("*")}

    def shown(self, name: str) -> str:
        """Return a distribution with its version, or with what is asked for."""
        if name in self.versions:
            return f"{name} {self.versions[name]}"
        texts = ["|".join(map(str, alternatives)) for alternatives in self.requirements.get(name, ())]
        return f"{name}{','.join(filter(None, texts))}" or name


def of_installed(installed: Installed) -> Known:
    """Return what a prefix has."""
    python = {} if installed.python_minor is None else {PYTHON: installed.python_minor}
    return Known("environment", {}, {**installed.versions, **python})


def of_lockfile(locked: Lockfile) -> Known:
    """Return what a lockfile says."""
    versions: dict[str, str] = {}
    for package in locked.packages:
        names = _conda_names(package.name) if package.manager == "conda" else (canonicalize_name(package.name),)
        versions |= dict.fromkeys(names, package.version)
    return Known("lockfile", {}, versions)


def of_spec(spec: Spec) -> Known:
    """Return what a spec asks for on Linux."""
    found: dict[str, list[tuple[SpecifierSet, ...]]] = {}
    for conda in spec.conda:
        match = _MATCH_SPEC.fullmatch(conda.match_spec)
        if match is not None and _is_for_linux(conda.platforms):
            for name in _conda_names(match["name"]):
                found.setdefault(name, []).append(_alternatives(match["version"] or ""))
    for pip in spec.pip:
        try:
            requirement = Requirement(pip.requirement)
        except InvalidRequirement:  # a bare URL
            continue
        if _is_for_linux(pip.platforms):
            name = canonicalize_name(requirement.name)
            found.setdefault(name, []).append((requirement.specifier,))
            for extra in requirement.extras:
                for more in _EXTRAS.get(f"{name}[{extra}]", ()):
                    found.setdefault(more, []).append((SpecifierSet(),))
    return Known("spec", {name: tuple(each) for name, each in found.items()}, {})


def _conda_names(name: str) -> Iterable[str]:
    return _CONDA_NAMES.get(name, (canonicalize_name(name),))


def _is_for_linux(platforms: tuple[str, ...]) -> bool:
    return not platforms or any(word.startswith(("linux", "unix")) for word in platforms)


def _alternatives(expression: str) -> tuple[SpecifierSet, ...]:
    """Return a normalised version expression of conda's (`envmgr.spec.versions`) in Python's words."""
    if not expression or "(" in expression:
        return (SpecifierSet(),)
    found = []
    for alternative in expression.split("|"):
        clauses = [f"=={clause}" if clause[:1].isalnum() else clause for clause in alternative.split(",")]
        try:
            found.append(SpecifierSet(",".join(clause for clause in clauses if clause != "*")))
        except InvalidSpecifier:
            return (SpecifierSet(),)
    return tuple(found)


def _same(one: str, other: str) -> bool:
    try:
        return Version(one) == Version(other)
    except InvalidVersion:
        return one == other
