"""Whether what an environment has is enough for a system that is to run code in it.

Judged from names and versions alone (`envmgr.runners.installed`): no process is started, and nothing of the system
has to be installed here. So a runner checks with this before it starts a worker that could not speak to its master.

A check returns problems, one sentence each, none where all is well. What is not promised: that an environment without
problems works; only what makes a system hang or fail without saying why is looked for.
"""

from __future__ import annotations

from collections.abc import Iterable

from envmgr.runners.installed import Installed


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
    if found.python_minor is None:
        return ["it has no interpreter (add python to its spec)"]
    problems = []
    if found.python_minor != python:
        problems.append(
            f"it has Python {found.python_minor} and the cluster {python}: neither can read the other's functions "
            f"(ask for python={python})"
        )
    own = found.version("ray")
    if own is not None and own != ray:
        problems.append(f"it has ray {own} and the cluster {ray} (ask for ray=={ray}, or for no ray at all)")
    if own is None and overlay is False:
        problems.append(f"it has no ray, and the cluster's is not to be used (ask for ray=={ray}, or overlay: true)")
    if own is None and overlay is not False:
        problems += _hidden(found, ray, needs)
    if own is not None and for_client and not overlay and found.version("grpcio") is None:
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
        version = found.version(requirement.name)
        if version is None or (requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})):
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            problems.append(
                f"it has {requirement.name} {version}, and the cluster's ray {ray} needs "
                f"{requirement.name}{requirement.specifier}"
            )
    return problems
