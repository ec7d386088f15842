"""Looks at an installed prefix: does everything fit together, and is what was asked for there?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from envmgr.backends.pip.distributions import installed
from envmgr.backends.pip.interpreter import Interpreter, inspect
from envmgr.backends.pip.uv import Runner, explanation, prepared
from envmgr.backends.processes import run as run_process
from envmgr.events import Reporter, ignore
from envmgr.wire.pipe import Network, PipSettings


def check(prefix: Path, *, uv_cache: Path, run: Runner = run_process, report: Reporter = ignore) -> tuple[str, ...]:
    """Return a sentence for each installed distribution whose requirements the prefix does not meet."""
    with prepared(
        prefix,
        settings=PipSettings(),
        network=Network(is_offline=True),
        uv_cache=uv_cache,
        environ={},
        run=run,
        report=report,
    ) as uv:
        finished = uv.pip("check", phase="check")
    if finished.status == 0:
        return ()
    found = tuple(re.sub("`", "", line) for line in finished.tail if line.startswith("The package "))
    return found or (f"the installed packages could not be checked: {explanation(finished)}",)


def unmet(requirements: Sequence[str], prefix: Path, *, run: Runner = run_process) -> tuple[str, ...]:
    """Return a sentence for each requirement that no installed distribution meets, whoever installed it.

    Lines of a requirements file, as for `lock`; a bare URL has no name to look for and is not judged.
    """
    interpreter = inspect(prefix, run=run)
    distributions = installed(interpreter.site_packages)
    environment = _marker_environment(interpreter)
    found = []
    for line in requirements:
        text = re.split(r"\s+--hash[=\s]", line)[0].strip()
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            continue
        if requirement.marker is not None and not requirement.marker.evaluate(environment):
            continue
        distribution = distributions.get(canonicalize_name(requirement.name))
        if distribution is None:
            found.append(f"{text}: {requirement.name} is not installed")
        elif not requirement.specifier.contains(distribution.version, prereleases=True):
            found.append(f"{text}: {distribution.name} {distribution.version} is installed")
    return tuple(found)


def _marker_environment(interpreter: Interpreter) -> dict[str, str]:
    full = ".".join(map(str, interpreter.version))
    return {
        "python_version": full.rpartition(".")[0],
        "python_full_version": full,
        "implementation_version": full,
        "implementation_name": interpreter.implementation,
        "platform_python_implementation": {"cpython": "CPython", "pypy": "PyPy"}.get(interpreter.implementation, ""),
        "extra": "",
    }
