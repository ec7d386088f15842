"""Captures, once at build, what activating a prefix changes, and writes it as the build's file ``activation``.

What conda does at every activation, and what becomes of it here:

1. ``PATH`` gets ``<prefix>/bin`` first; ``CONDA_PREFIX``, ``CONDA_DEFAULT_ENV`` (the stable name), ``CONDA_SHLVL`` and
   ``CONDA_PROMPT_MODIFIER`` are set. ``CONDA_SHLVL`` is always 1: an environment is entered as from a fresh shell, not
   stacked on the one before, so that entering twice is the same as once; ``conda deactivate`` then leads to no
   environment. Not conda's, but needed by every way of starting a program: ``PYTHONHOME`` and ``VIRTUAL_ENV`` of an
   outer interpreter are removed.
2. Variables that packages declare in ``etc/conda/env_vars.d/*.json`` (in the order of the files' names), then the
   spec's ``variables``, which win. Values are literal: conda quotes them for the shell, so ``$HOME`` stays ``$HOME``.
   The value ``***unset***`` removes the variable. conda turns the names into capitals (its setting
   ``envvars_force_uppercase``, on by default); a name that is not in capitals is set in both spellings here.
3. The scripts in ``etc/conda/activate.d/*.sh`` are sourced in the order of their names, with all of the above already
   set. They are run once, here, in one bash (sh where there is none) with a clean environment, and the difference of
   the exported variables is kept. What they print goes to the log. As under conda, a script that ends with an error
   does not stop the next one; that is a warning. A script that ends the shell itself, or does not end, would do so to
   every user's shell: `BuildFailed`.

A variable that is a list (its name ends in ``PATH``, ``PATHS``, ``DIRS``, ``LIB``, or its value has a ``:`` and a
``/``) may be extended by a script rather than set. To tell the two apart, the scripts run a second time with a mark in
those variables; where the mark survives at the end or the beginning, a ``prepend`` or ``append`` is recorded.

What is lost: shell functions and aliases, ``deactivate.d``, and, with a warning, values under the user's home or
temporary directory (scripts see one of the build). Paths below the prefix are kept as they are: those of the build,
not of the stable name.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from envmgr.activation import FILE_NAME, apply, dump
from envmgr.backends.processes import Finished
from envmgr.backends.processes import run as run_process
from envmgr.errors import BuildFailed
from envmgr.events import Event, Reporter, ignore
from envmgr.store.orphans import MARK

if TYPE_CHECKING:
    from envmgr.activation import Change

SCRIPT_TIMEOUT_S = 60.0
UNSET_MARK = "***unset***"
_LIST_MARK = "/envmgr-was-here"
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SHELL_OWN = frozenset({"_", "SHLVL", "PWD", "OLDPWD", "HOME", "TMPDIR", "LANG", "BASH_ENV", "ENV", MARK})
_STEERS_SHELLS = frozenset({"BASH_ENV", "ENV", "SHELLOPTS", "BASHOPTS", "PS4"})
"""By what a variable of a spec would run commands of its own in the shell; in the activation itself they stay."""

_SOURCE_ALL = """\
_envmgr_out=$1; _envmgr_env=$2; shift 2
"$_envmgr_env" -0 > "$_envmgr_out/before" || exit 70
for _envmgr_script do
    printf '%s\\n' "$_envmgr_script" >> "$_envmgr_out/begun"
    . "$_envmgr_script" || printf '%s\\n' "$_envmgr_script" >> "$_envmgr_out/failed"
done
"$_envmgr_env" -0 > "$_envmgr_out/after" || exit 70
"""


class Runner(Protocol):
    """`envmgr.backends.processes.run`, or the same with more bound (the lease's descriptor)."""

    def __call__(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        environ: Mapping[str, str],
        on_line: Callable[[str], None],
        timeout_s: float | None,
    ) -> Finished: ...


def capture(
    prefix: Path,
    build_dir: Path,
    variables: Sequence[tuple[str, str]] = (),
    *,
    run: Runner = run_process,
    report: Reporter = ignore,
    timeout_s: float = SCRIPT_TIMEOUT_S,
) -> tuple[str, ...]:
    """Write ``<build_dir>/activation`` for `prefix` and return warnings; the file is not yet synced to disk.

    The last part of `prefix` is the environment's stable name. Raises `BuildFailed` naming the script or the file.
    """
    warnings: list[str] = []
    changes = _always(prefix)
    for key, value in [*_package_variables(prefix), *variables]:
        if key.upper() == MARK:
            continue  # a sweep would take the environment's jobs for a build's orphans
        for name in dict.fromkeys((key, key.upper())):
            changes.append(("unset", name, "") if value == UNSET_MARK else ("set", name, value))
    scripts = sorted((prefix / "etc/conda/activate.d").glob("*.sh"), key=lambda path: path.name)
    if scripts:
        shell = _Scripts(prefix, scripts, run, report, timeout_s)
        changes += shell.changes(changes)
        warnings = shell.warnings
    path = build_dir / FILE_NAME
    try:
        path.write_bytes(dump(changes))
    except ValueError as error:
        raise BuildFailed(f"the activation of {prefix.name} cannot be written: {error}") from error
    path.chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
    for warning in warnings:
        report(Event("warning", "activation", warning))
    return tuple(warnings)


def _always(prefix: Path) -> list[Change]:
    name = prefix.name
    return [
        ("unset", "PYTHONHOME", ""),
        ("unset", "VIRTUAL_ENV", ""),
        ("prepend", "PATH", f"{prefix}/bin"),
        ("set", "CONDA_PREFIX", str(prefix)),
        ("set", "CONDA_SHLVL", "1"),
        ("set", "CONDA_DEFAULT_ENV", name),
        ("set", "CONDA_PROMPT_MODIFIER", f"({name}) "),
    ]


def _package_variables(prefix: Path) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for path in sorted((prefix / "etc/conda/env_vars.d").glob("*.json"), key=lambda path: path.name):
        try:
            document = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise BuildFailed(f"{path} is not JSON: {error}", path=str(path)) from error
        if not isinstance(document, dict):
            raise BuildFailed(f"{path} is not a JSON object", path=str(path))
        found.update(
            (str(key), value if isinstance(value, str) else json.dumps(value)) for key, value in document.items()
        )
    return list(found.items())


class _Scripts:
    """The activation scripts of one prefix, run in a shell."""

    def __init__(
        self,
        prefix: Path,
        scripts: Sequence[Path],
        run: Runner,
        report: Reporter,
        timeout_s: float,
    ) -> None:
        self._prefix = prefix
        self._scripts = scripts
        self._run = run
        self._report = report
        self._timeout_s = timeout_s
        self.warnings: list[str] = []

    def changes(self, before: Sequence[Change]) -> list[Change]:
        """Return what the scripts change after the changes `before`."""
        base = {"PATH": _SYSTEM_PATH, "LANG": "C.UTF-8"}
        with tempfile.TemporaryDirectory(prefix="envmgr-activation-") as scratch:
            home = Path(scratch, "home")
            home.mkdir()
            inside = {key: value for key, value in apply(before, base).items() if key not in _STEERS_SHELLS}
            environ = {**inside, "HOME": str(home), "TMPDIR": str(home)}
            old, new = self._source(environ, Path(scratch), is_first=True)
            lists = [key for key in new if key != "PATH" and old.get(key) != new[key] and _is_list(key, new[key])]
            marked: dict[str, str] = {}
            if lists:
                again = {**environ, **{key: _marked(environ.get(key, "")) for key in lists}}
                _, marked = self._source(again, Path(scratch), is_first=False)
            return self._difference(old, new, marked, str(home))

    def _source(
        self, environ: Mapping[str, str], scratch: Path, *, is_first: bool
    ) -> tuple[dict[str, str], dict[str, str]]:
        out = scratch / ("first" if is_first else "second")
        out.mkdir()
        shell, options = _shell()
        env_tool = shutil.which("env", path=_SYSTEM_PATH) or "/usr/bin/env"

        def log(line: str) -> None:
            if is_first:
                self._report(Event("log", "activation", line))

        command: list[str | os.PathLike[str]] = [
            shell,
            *options,
            "-c",
            _SOURCE_ALL,
            "sh",
            out,
            env_tool,
            *self._scripts,
        ]
        finished = self._run(command, environ=environ, on_line=log, timeout_s=self._timeout_s)
        begun = _read_lines(out / "begun")
        current = begun[-1] if begun else str(self._scripts[0])
        if finished.is_timed_out:
            raise BuildFailed(
                f"the activation script {current} did not end within {self._timeout_s:g} s",
                hint="it would keep every shell that activates this environment waiting; leave its package out",
                script=current,
            )
        if not (out / "after").exists():
            raise BuildFailed(
                f"the activation script {current} ended the shell (status {finished.status})",
                hint="it would end every shell that activates this environment; leave its package out",
                script=current,
            )
        if is_first:
            self.warnings += [f"the activation script {path} failed" for path in _read_lines(out / "failed")]
        return _read_environ(out / "before"), _read_environ(out / "after")

    def _difference(
        self, old: Mapping[str, str], new: Mapping[str, str], marked: Mapping[str, str], home: str
    ) -> list[Change]:
        found: list[Change] = [("unset", key, "") for key in sorted(old) if key not in new and key not in _SHELL_OWN]
        for key in sorted(new):
            value = new[key]
            if key in _SHELL_OWN or old.get(key) == value or key.startswith("BASH_FUNC_"):
                continue
            if home in value:
                self.warnings.append(f"an activation script sets {key} to a path in the home directory; left out")
            elif key == "PATH":
                found += _path_changes(old.get(key, ""), value)
            else:
                found.append(_list_change(key, old.get(key, ""), marked.get(key, "")) or ("set", key, value))
        return found


def _shell() -> tuple[str, list[str]]:
    bash = shutil.which("bash", path=_SYSTEM_PATH)
    return (bash, ["--noprofile", "--norc"]) if bash else ("/bin/sh", [])


def _read_lines(path: Path) -> list[str]:
    return path.read_text("utf-8", "surrogateescape").splitlines() if path.exists() else []


def _read_environ(path: Path) -> dict[str, str]:
    entries = os.fsdecode(path.read_bytes()).split("\0")
    return {key: value for key, equals, value in (entry.partition("=") for entry in entries) if equals}


def _is_list(key: str, value: str) -> bool:
    return key.endswith(("PATH", "PATHS", "DIRS", "LIB")) or (":" in value and "/" in value)


def _marked(value: str) -> str:
    return f"{value}:{_LIST_MARK}" if value else _LIST_MARK


def _list_change(key: str, old: str, marked: str) -> Change | None:
    """Tell from the value that a script made of a marked list how it extends the list; ``None`` if it replaces it."""
    kept = _marked(old)
    if marked.endswith(f":{kept}"):
        op, entries = "prepend", _entries(marked[: -len(kept)])
    elif marked.startswith(f"{kept}:"):
        op, entries = "append", _entries(marked[len(kept) :])
    else:
        return None
    return (op, key, entries) if entries else None


def _path_changes(old: str, new: str) -> list[Change]:
    """Say what a script did to PATH as a prepend and an append of what is new; what it took away stays."""
    before = old.split(":")
    entries = list(dict.fromkeys(entry for entry in new.split(":") if entry))
    kept = [index for index, entry in enumerate(entries) if entry in before]
    fresh = [index for index, entry in enumerate(entries) if entry not in before]
    last_kept = kept[-1] if kept else len(entries)
    changes: list[Change] = []
    if leading := [index for index in fresh if index < last_kept]:
        # Up to the last new entry: the prefix's own bin may stand before it, and then has to stay there.
        first = [entry for entry in entries[: leading[-1] + 1] if entry not in before or entry == before[0]]
        changes.append(("prepend", "PATH", ":".join(first)))
    if trailing := [entries[index] for index in fresh if index > last_kept]:
        changes.append(("append", "PATH", ":".join(trailing)))
    return changes


def _entries(text: str) -> str:
    return ":".join(dict.fromkeys(entry for entry in text.split(":") if entry))
