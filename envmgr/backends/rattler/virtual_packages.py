"""What a machine offers (``__glibc``, ``__cuda``, …), and whether a lockfile asks for more.

Detected by rattler, then changed by the request's overrides, never by ``CONDA_OVERRIDE_…`` of a caller: a name's
packages may not depend on who asks. An override with an empty version takes the virtual package away.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rattler import (
    BuildString,
    GenericVirtualPackage,
    MatchSpec,
    PackageName,
    PackageRecord,
    Subdir,
    Version,
)
from rattler import VirtualPackage as DetectedPackage

from envmgr.errors import IncompatibleHost
from envmgr.model import VirtualPackage
from envmgr.wire.pipe import BuildRequest

_FOREIGN_GLIBC = "2.17"
_FOREIGN_OSX = "11.0"


def detect(subdir: str, overrides: Sequence[tuple[str, str]] = ()) -> tuple[VirtualPackage, ...]:
    """Return the virtual packages of this machine; for another `subdir`, those that any such machine has."""
    if subdir == str(Subdir.current()):
        generic = [package.into_generic() for package in DetectedPackage.detect()]
        found = {one.name.normalized: (str(one.version), str(one.build_string)) for one in generic}
    else:
        found = _least(subdir)
    return _overridden(found, overrides)


def for_solve(request: BuildRequest, host: tuple[VirtualPackage, ...]) -> tuple[VirtualPackage, ...]:
    """Return what packages are chosen for: the declared machine class, else this `host`.

    A declared class has what any machine of the subdir has, and what is declared; nothing of the host that solves.
    """
    if request.solve_virtual_packages is None:
        return host
    return _overridden(_least(request.subdir), request.solve_virtual_packages)


def _overridden(found: dict[str, tuple[str, str]], overrides: Sequence[tuple[str, str]]) -> tuple[VirtualPackage, ...]:
    for name, version in overrides:
        full = name if name.startswith("__") else f"__{name}"
        if not version:
            found.pop(full, None)
        elif full == "__archspec":  # its version is always 1; what is meant is its build
            found[full] = ("1", version)
        else:
            found[full] = (version, "0")
    return tuple(VirtualPackage(name, version, build) for name, (version, build) in sorted(found.items()))


def _least(subdir: str) -> dict[str, tuple[str, str]]:
    system, _, machine = subdir.partition("-")
    found: dict[str, tuple[str, str]] = {}
    if system in {"linux", "osx"}:
        found["__unix"] = ("0", "0")
    if system == "linux":
        found["__linux"] = ("5.10", "0")
        found["__glibc"] = (_FOREIGN_GLIBC, "0")
    elif system == "osx":
        found["__osx"] = (_FOREIGN_OSX, "0")
    elif system == "win":
        found["__win"] = ("0", "0")
    found["__archspec"] = ("1", {"64": "x86_64", "arm64": "m1" if system == "osx" else "aarch64"}.get(machine, machine))
    return found


def machine_class(subdir: str, packages: Iterable[VirtualPackage]) -> str:
    """Return the class of a machine, such as ``linux-64`` or ``linux-64+cuda12``."""
    cuda = next((package.version for package in packages if package.name == "__cuda"), None)
    return subdir if cuda is None else f"{subdir}+cuda{cuda.partition('.')[0]}"


def generic(packages: Iterable[VirtualPackage]) -> list[GenericVirtualPackage]:
    """Return `packages` as the solver wants them."""
    return [
        GenericVirtualPackage(PackageName(package.name), Version(package.version), BuildString(package.build))
        for package in packages
    ]


def check(required: Iterable[tuple[str, str]], packages: Sequence[VirtualPackage]) -> None:
    """Make sure that this machine has what a lockfile requires of one; `IncompatibleHost` names all that is missing."""
    missing = [
        f"{name} {requirement}".strip() + (f" (here: {_shown(name, packages)})" if _shown(name, packages) else "")
        for name, requirement in required
        if not any(_meets(package, name, requirement) for package in packages)
    ]
    if missing:
        raise IncompatibleHost(
            f"this machine lacks what the locked packages require: {'; '.join(missing)}",
            hint="the lockfile was made for another machine class; `envmgr lock` on this one makes its own",
            missing=missing,
        )


def _shown(name: str, packages: Sequence[VirtualPackage]) -> str:
    return next((package.version for package in packages if package.name == name), "")


def _meets(package: VirtualPackage, name: str, requirement: str) -> bool:
    if package.name != name:
        return False
    record = PackageRecord(
        name=package.name,
        version=package.version,
        build=BuildString(package.build),
        build_number=0,
        subdir="noarch",
        arch=None,
        platform=None,
        noarch=None,
    )
    return MatchSpec(f"{name} {requirement}".strip()).matches(record)
