"""Asks a prefix's interpreter what it is, and says which wheels fit it.

The interpreter may be older than anything that `packaging` supports, so it only prints facts (plain Python 3.6 and
without ``site``); the tags are computed here. Platform tags are this process's own: it runs on the same machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Protocol

from packaging import tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from envmgr.backends.pip.platforms import Glibc, fitting
from envmgr.backends.processes import Finished
from envmgr.backends.processes import run as run_process
from envmgr.errors import BuildFailed

_FACTS = """
import json, sys, sysconfig
v = sysconfig.get_config_var
base = {"base": sys.argv[1], "platbase": sys.argv[1]}  # without site, a venv would name the interpreter it is made from
print(json.dumps({
    "version": list(sys.version_info[:3]),
    "implementation": sys.implementation.name,
    "soabi": v("SOABI") or "",
    "is_debug": bool(v("Py_DEBUG")),
    "is_free_threaded": bool(v("Py_GIL_DISABLED")),
    "site_packages": [sysconfig.get_path(name, vars=base) for name in ("purelib", "platlib")],
    "stdlib": sysconfig.get_path("stdlib"),
}))
"""


@dataclass(frozen=True)
class Interpreter:
    """The facts about ``<prefix>/bin/python``; `site_packages` is where conda and pip put distributions."""

    path: Path
    version: tuple[int, int, int]
    implementation: str
    soabi: str
    is_debug: bool
    is_free_threaded: bool
    site_packages: tuple[Path, ...]
    stdlib: Path
    newest_glibc: Glibc | None = None
    """Wheels for a newer one do not fit; ``None``: this machine's own counts."""

    @cached_property
    def tag_ranks(self) -> dict[tags.Tag, int]:
        """Each wheel tag that fits, with its rank: 0 is the most specific."""
        return {tag: rank for rank, tag in reversed(list(enumerate(self._tags())))}

    def wheel_rank(self, file_name: str) -> int | None:
        """Return how well a wheel fits (less is better), or ``None`` if it does not or is not a wheel."""
        try:
            found = parse_wheel_filename(file_name)[3]
        except InvalidWheelFilename:
            return None
        return min((self.tag_ranks[tag] for tag in found if tag in self.tag_ranks), default=None)

    def _tags(self) -> Iterator[tags.Tag]:
        major, minor, _ = self.version
        digits = f"{major}{minor}"
        platforms = fitting(list(tags.platform_tags()), self.newest_glibc)
        if self.implementation == "cpython":
            flags = ("t" if self.is_free_threaded else "") + ("d" if self.is_debug else "")
            flags += "m" if self.version < (3, 8) else ""
            yield from tags.cpython_tags((major, minor), [f"cp{digits}{flags}"], platforms)
            yield from tags.compatible_tags((major, minor), f"cp{digits}", platforms)
        else:
            short = {"pypy": "pp"}.get(self.implementation, self.implementation)
            abi = "_".join(self.soabi.replace("-", "_").split("_")[:2])
            yield from tags.generic_tags(f"{short}{digits}", [abi] if abi else [], platforms)
            yield from tags.compatible_tags((major, minor), f"{short}{digits}", platforms)


class Runner(Protocol):
    """`envmgr.backends.processes.run`, or the same with the lease's descriptor bound."""

    def __call__(self, command: Sequence[str | PathLike[str]], *, environ: Mapping[str, str]) -> Finished: ...


def python_of(prefix: Path) -> Path:
    return prefix / "bin" / "python"


def inspect(prefix: Path, *, run: Runner = run_process) -> Interpreter:
    """Start the prefix's interpreter (bare, 15 ms) and return what it is; `BuildFailed` if it does not start."""
    path = python_of(prefix)
    command: list[str | PathLike[str]] = [path, "-I", "-S", "-c", _FACTS, str(prefix)]
    try:
        finished = run(command, environ={"LC_ALL": "C.UTF-8", "PATH": f"{prefix}/bin:/usr/bin:/bin"})
    except OSError as error:
        raise BuildFailed(f"the environment has no interpreter that starts: {error}", path=str(path)) from error
    try:
        facts = json.loads(finished.tail[-1])
    except (IndexError, ValueError) as error:
        raise BuildFailed(
            f"{path} does not start (status {finished.status}): {finished.text[-500:]}", path=str(path)
        ) from error
    return Interpreter(
        path=path,
        version=tuple(facts["version"]),
        implementation=facts["implementation"],
        soabi=facts["soabi"],
        is_debug=facts["is_debug"],
        is_free_threaded=facts["is_free_threaded"],
        site_packages=tuple(dict.fromkeys(map(Path, facts["site_packages"]))),
        stdlib=Path(facts["stdlib"]),
    )
