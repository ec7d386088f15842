"""What an environment has, and whether that is enough for a system that is to run code in it.

Facts are read from names of files alone (``conda-meta/*.json``, ``*.dist-info``): no process is started, no package is
imported, and nothing of the system itself has to be installed here. So the runners check with this before they start a
worker that could not speak to its master, and ``envmgr lint`` before anybody does.

A check returns problems, one sentence each, none where all is well. What is not promised: that an environment without
problems works; only what makes a system hang or fail without saying why is looked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Installed:
    """What a prefix has.

    `python` is its interpreter's minor version (``3.11``), or ``None``; `packages` are conda's and `distributions`
    Python's, version by name (of distributions normalised: lower case, runs of ``-_.`` as one ``-``).
    """

    python: str | None
    packages: Mapping[str, str]
    distributions: Mapping[str, str]


def of_prefix(prefix: Path) -> Installed:
    """Read what the environment at `prefix` has; `OSError` where it cannot be read."""
    packages: dict[str, str] = {}
    for record in (prefix / "conda-meta").glob("*.json"):
        name, version, build = ("", "", *record.name.rsplit("-", 2))[-3:]
        if name and build:
            packages[name] = version
    minor = ".".join(packages["python"].split(".")[:2]) if "python" in packages else None
    distributions: dict[str, str] = {}
    for information in (prefix / "lib" / f"python{minor}" / "site-packages").glob("*.dist-info"):
        name, _, version = information.name.removesuffix(".dist-info").rpartition("-")
        distributions[normalised(name)] = version
    return Installed(minor, packages, distributions)


def normalised(name: str) -> str:
    """Return a distribution's name as it is compared; source: the packaging guide's name normalisation."""
    return re.sub(r"[-_.]+", "-", name).lower()


def ray_problems(
    found: Installed,
    *,
    python: str,
    ray: str,
    overlay: bool | None = None,
    needs: Iterable[str] = (),
    for_client: bool = False,
) -> list[str]:
    """Check an environment for a Ray cluster of the minor version `python` and the version `ray`.

    `overlay` tells whether the cluster's Ray is put behind the environment's packages (``None``: where it has none of
    its own); `needs` are then that Ray's own requirements. `for_client` asks for what the server of a ``ray://`` job
    needs. Without these checks a task waits for ever: its worker dies before it can say why.
    """
    if found.python is None:
        return ["it has no interpreter (add python to its spec)"]
    problems = []
    if found.python != python:
        problems.append(
            f"it has Python {found.python} and the cluster {python}: functions of one cannot be read by the other "
            f"(ask for python={python})"
        )
    own = found.distributions.get("ray")
    if own is not None and own != ray:
        problems.append(f"it has ray {own} and the cluster {ray} (ask for ray=={ray}, or for no ray at all)")
    if own is None and overlay is False:
        problems.append(f"it has no ray, and the cluster's is not to be used (ask for ray=={ray}, or overlay: true)")
    if own is None and overlay is not False:
        problems += _hidden(found, ray, needs)
    if own is not None and for_client and not overlay and "grpcio" not in found.distributions:
        problems.append(
            "it has ray without grpcio, which ray:// needs for an environment of a whole job (ask for "
            f"ray[client]=={ray}, or for no ray at all)"
        )
    return problems


def _hidden(found: Installed, ray: str, needs: Iterable[str]) -> list[str]:
    """Find what the cluster's Ray needs and the environment has in a version that this Ray cannot work with."""
    from packaging.requirements import Requirement  # noqa: PLC0415 - the facts are to be had without it

    problems = []
    for requirement in map(Requirement, needs):
        version = found.distributions.get(normalised(requirement.name))
        if version is None or (requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})):
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            problems.append(
                f"it has {requirement.name} {version}, and the cluster's ray {ray} needs "
                f"{requirement.name}{requirement.specifier}"
            )
    return problems
