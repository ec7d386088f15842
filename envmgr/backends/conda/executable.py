"""Finds the site's conda, mamba or micromamba, and asks it what it is.

Looked at, in this order: the setting ``conda_executable`` (then nothing else), ``$CONDA_EXE``, ``$MAMBA_EXE``,
``$MLFLOW_CONDA_HOME/bin/conda``, then ``conda``, ``mamba`` and ``micromamba`` in each directory of ``$PATH``. The first
that answers counts, as what it says it is, whatever it is called.

envmgr's own drop-in conda home is never taken for a conda: asked for a package it would ask envmgr, which would ask it
again. It is known by a file `DROP_IN_MARK` in its home; and whatever is started for envmgr finds `PASSED_ON` in its
environment, upon which a drop-in that was reached in another way refuses.

Source: conda's documentation ("Environment variables"); the answers to ``--version`` and ``info --json`` as
ensureconda and conda-lock read them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from envmgr.backends import processes
from envmgr.backends.conda.answers import last_object
from envmgr.errors import BuildFailed, EnvmgrError, UsageError
from envmgr.settings.redact import redact

Kind = Literal["conda", "mamba", "micromamba"]

DROP_IN_MARK = "envmgr-condahome"
"""A file of this name in a conda home (the directory that has ``bin/conda``) says that it is envmgr's drop-in."""

PASSED_ON = "ENVMGR_CONDA_PASSED_ON"
"""Set in the environment of everything that is started for envmgr; a drop-in that finds it must not ask envmgr."""

SURROUNDINGS = ("CONDARC", "CONDA_ROOT", "HOME", "MAMBA_ROOT_PREFIX", "XDG_CONFIG_HOME")
"""The caller's variables that conda gets in a build: they say which of its configuration files count."""

_FINDING = ("CONDA_EXE", "MAMBA_EXE", "MLFLOW_CONDA_HOME", "PATH")
_NAMES = ("conda", "mamba", "micromamba")
_HINT = "the setting conda_executable names it"
_ASK_S = 60.0  # a conda on a cold network file system takes its time to be imported
_NUMBER = re.compile(r"\d+(?:\.\w+)+")
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Conda:
    """A program that was asked: where it is, what it is, and its version."""

    path: Path
    kind: Kind
    version: str

    def __str__(self) -> str:
        return f"{self.kind} {self.version} ({self.path})"

    @property
    def is_libmamba(self) -> bool:
        """Whether it is micromamba or mamba 2, whose options and answers are one program's; mamba 1 is conda's."""
        return self.kind == "micromamba" or (self.kind == "mamba" and not self.version.startswith(("0.", "1.")))


def surroundings(environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return what of a caller's variables counts for finding a conda and its configuration files."""
    return tuple((name, environ[name]) for name in (*_FINDING, *SURROUNDINGS) if name in environ)


def find(setting: str | None, environ: Mapping[str, str]) -> Conda:
    """Return the conda to use; `setting` is the value of ``conda_executable``.

    Starts every candidate until one answers. Raises `UsageError` when there is none.
    """
    refused = []
    for path, source in _candidates(setting, environ):
        if _is_drop_in(path):
            refused.append(f"{path} ({source}) is envmgr's own drop-in")
            continue
        try:
            return ask(path, environ)
        except EnvmgrError as error:
            refused.append(f"{error.message} ({source})")
    if not refused:
        raise UsageError("there is no conda, mamba or micromamba on this host", hint=_HINT)
    raise UsageError(f"no usable conda: {'; '.join(refused)}", hint=_HINT)


def ask(path: Path, environ: Mapping[str, str]) -> Conda:
    """Return what the program at `path` says it is; `BuildFailed` when it does not say or does not answer."""
    answer = _said([str(path), "--version"], environ)
    for kind in ("mamba", "conda"):  # mamba 1 tells the version of the conda in it, too
        if found := re.search(rf"^{kind} ({_NUMBER.pattern})", answer, re.MULTILINE):
            return Conda(path, kind, found[1])
    last = answer.strip().rpartition("\n")[2].strip()
    if not _NUMBER.fullmatch(last):
        raise BuildFailed(f"{path} does not tell which conda it is: {redact(last[:200])!r}")
    # micromamba and mamba 2 tell a bare number.
    about = last_object(_said([str(path), "info", "--json"], environ)) or {}
    return Conda(path, "mamba" if "mamba version" in about else "micromamba", last)


def package_caches(conda: Conda, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return the package caches that `conda` uses in this environment, whether they are there or not."""
    question = (
        ["config", "--json", "list", "pkgs_dirs"] if conda.is_libmamba else ["config", "--json", "--show", "pkgs_dirs"]
    )
    answer = last_object(_said([str(conda.path), *question], environ)) or {}
    found = answer.get("pkgs_dirs")
    if not isinstance(found, list) or not found:
        raise BuildFailed(f"{conda} does not tell its package caches (pkgs_dirs)", hint=_HINT)
    return tuple(Path(str(path)) for path in found)


def _candidates(setting: str | None, environ: Mapping[str, str]) -> Iterator[tuple[Path, str]]:
    """Yield what could be a conda and who names it; only files that may be started, but for the setting's."""
    if setting is not None:
        yield Path(setting), "setting conda_executable"
        return
    named = [(environ.get(name, ""), name) for name in ("CONDA_EXE", "MAMBA_EXE")]
    if home := environ.get("MLFLOW_CONDA_HOME"):
        named.append((os.path.join(home, "bin", "conda"), "MLFLOW_CONDA_HOME"))
    for directory in environ.get("PATH", "").split(os.pathsep):
        named += [(os.path.join(directory, name), "PATH") for name in _NAMES]
    seen = set()
    for path, source in named:
        if os.path.isabs(path) and path not in seen and os.path.isfile(path) and os.access(path, os.X_OK):
            seen.add(path)
            yield Path(path), source


def _is_drop_in(path: Path) -> bool:
    """Tell whether `path`, or what it links to, stands in a home that is marked as envmgr's."""
    return any((home / DROP_IN_MARK).exists() for one in (path, path.resolve()) for home in one.parents[:2])


def _said(command: Sequence[str], environ: Mapping[str, str]) -> str:
    lines: list[str] = []
    try:
        finished = processes.run(
            command,
            environ={"PATH": _SYSTEM_PATH, "LANG": "C.UTF-8", **environ, PASSED_ON: "1"},
            on_line=lines.append,
            timeout_s=_ASK_S,
        )
    except OSError as error:
        raise BuildFailed(f"{command[0]} cannot be started: {error.strerror}") from error
    if finished.is_timed_out:
        raise BuildFailed(f"{command[0]} did not answer within {_ASK_S:g} s")
    if finished.status != 0:
        said = redact(" / ".join(lines[-3:]))
        raise BuildFailed(f"{' '.join(command)} failed with status {finished.status}: {said[:500]}")
    return "\n".join(lines)
