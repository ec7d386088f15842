"""What a build costs: warm beside bare tools, the link stage beside ``cp -al``, and the parts of a cold build."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import BenchError, Figure, Rounds, Spread, in_turn
from benchmarks.workspace import QUICKSTART, Workspace, remove, say, settle

_CREATE_GOAL = 1.3
_LINK_GOAL = 1.5
AROUND = "around"
"""What is left of a whole process when the builder's phases are taken away: starting, parsing, locking, publishing."""


def quickstart(work: Workspace, *, is_quick: bool) -> list[Figure]:
    """Compare a warm create of the quickstart environment."""
    root = work.new_store("create", work.channel)
    return _Comparison(work, root, QUICKSTART, "create", "quickstart").figures(
        Rounds(2, 2, 20) if is_quick else Rounds(5, 5, 45)
    )


def with_pip(work: Workspace, *, is_quick: bool) -> list[Figure]:
    """Compare a warm create of an environment with a pip section of wheels made by hand."""
    root = work.new_store("pip", work.channel, find_links=[str(work.wheels)], no_index=True)
    spec = work.spec("pip", _with_pip_section("name: pip\ndependencies:\n  - python\n", work.wheel_names))
    comparison = _Comparison(work, root, spec, "pip", "python and a pip section", wheels=work.wheel_names)
    return comparison.figures(Rounds(2, 2, 20) if is_quick else Rounds(5, 3, 25))


def many(work: Workspace, *, is_quick: bool) -> list[Figure]:
    """Compare a warm create of an environment of 300 fabricated packages."""
    root = work.new_store("many", work.fabricated.as_uri())
    comparison = _Comparison(work, root, many_spec(work), "many", "300 packages of 20 files")
    return comparison.figures(Rounds(2, 2, 20) if is_quick else Rounds(9, 5, 20))


def many_spec(work: Workspace) -> Path:
    """Return the spec of the environment of 300 fabricated packages."""
    return work.spec("many", "name: many\ndependencies:\n  - many\n")


def cold(work: Workspace, *, is_quick: bool) -> list[Figure]:
    """Say where the time of a cold create goes: quickstart with a pip section, each time in a new store."""
    text = QUICKSTART.read_text("utf-8")
    spec = work.spec("cold", _with_pip_section(text, work.wheel_names))
    whole: list[float] = []
    phases: list[Mapping[str, float]] = []
    channel, wheels = work.channel, work.wheels
    for number in Rounds(1 if is_quick else 3, 1, 25):
        root = work.new_store(f"cold-{number}", channel, find_links=[str(wheels)], no_index=True)
        settle()
        took_s = work.envmgr(root, "create", spec)
        whole.append(took_s)
        phases.append(_with_around(_record(root)["phases_s"], took_s))
        remove(root)
    facts = {"phases_s": _medians(phases)}
    return [Figure("cold", "envmgr create, nothing cached, file:// channel", Spread(tuple(whole)), facts=facts)]


def _with_pip_section(text: str, names: Sequence[str]) -> str:
    return text.rstrip() + "\n  - pip\n  - pip:\n" + "".join(f"      - {name}==1.0\n" for name in names)


class _Comparison:
    """One environment: created by envmgr, installed by the bare tools, and copied by ``cp -al``."""

    def __init__(
        self, work: Workspace, root: Path, spec: Path, group: str, title: str, *, wheels: Sequence[str] = ()
    ) -> None:
        self._work = work
        self._root = root
        self._spec = spec
        self._group = group
        self._title = title
        self._wheels = wheels
        self._bare = work.run / f"bare-{group}"
        self._lock = self._bare / "rattler.lock"
        self._tree = self._bare / "linked"
        self._created_phases: list[Mapping[str, float]] = []
        self._bare_phases: list[Mapping[str, float]] = []

    def figures(self, rounds: Rounds) -> list[Figure]:
        """Make everything warm, then measure."""
        facts = self._prepare()
        say(f"{self._title}: create, bare tools and cp -al in turn")
        created, bare, copied = in_turn(rounds, [self._create, self._install, self._copy])
        linked = Spread(tuple(phases["link"] for phases in self._created_phases))
        facts |= {"phases_s": _medians(self._created_phases), "bare_phases_s": _medians(self._bare_phases)}
        tools = "rattler, uv, compileall, syncfs" if self._wheels else "rattler, compileall, syncfs"
        return [
            Figure(
                self._group, f"warm create: {self._title}", created, "ratio", bare, tools, _CREATE_GOAL, facts=facts
            ),
            Figure(self._group, f"link stage: {self._title}", linked, "ratio", copied, "cp -al", _LINK_GOAL),
        ]  # fmt: skip

    def _prepare(self) -> dict[str, object]:
        """Fill both sides' caches, and return what the environment is."""
        self._bare.mkdir()
        self._work.envmgr(self._root, "create", self._spec)
        record = _record(self._root)
        prefix = self._root / "builds" / record["build_id"] / "envs" / record["name"]
        self._work.time(self._work.program("bare", "lock", prefix, self._lock))
        if self._wheels:
            _write_pylock(self._bare / "pylock.toml", self._work.wheels, self._wheels)
        files, compiled = _count(prefix)
        self._work.envmgr(self._root, "remove", self._spec)
        target = self._bare / "warm"
        self._run_bare(target)
        bare_files, bare_compiled = _count(target)
        remove(target)
        if bare_compiled < compiled * 0.95 or bare_files < files * 0.95:
            raise BenchError(f"the bare tools did less: {bare_files} files, {bare_compiled} compiled; we have {files}")
        self._run_bare(self._tree, is_all=False)
        return {
            "packages": record["packages"],
            "files": files,
            "compiled_files": compiled,
            "bare_compiled_files": bare_compiled,
            "linked_files": _count(self._tree)[0],
            "size_bytes": record["size_bytes"],
        }

    def _create(self) -> float:
        settle()
        took_s = self._work.envmgr(self._root, "create", self._spec)
        self._created_phases.append(_with_around(_record(self._root)["phases_s"], took_s))
        self._work.envmgr(self._root, "remove", self._spec)
        return took_s

    def _install(self) -> float:
        target = self._bare / "prefix"
        settle()
        took_s, phases = self._run_bare(target)
        self._bare_phases.append(_with_around(phases, took_s))
        remove(target)
        return took_s

    def _run_bare(self, target: Path, *, is_all: bool = True) -> tuple[float, Mapping[str, float]]:
        report, request = self._bare / "report.json", self._bare / "request.json"
        document = {
            "lock": str(self._lock),
            "prefix": str(target),
            "cache": str(self._bare / "pkgs"),
            "pylock": str(self._bare / "pylock.toml") if self._wheels and is_all else None,
            "uv": str(self._work.bin / "uv"),
            "uv_cache": str(self._bare / "uv-cache"),
            "is_compiled": is_all,
            "is_synced": is_all,
            "report": str(report),
        }
        request.write_text(json.dumps(document))
        took_s = self._work.time(self._work.program("bare", "install", request))
        return took_s, json.loads(report.read_text())

    def _copy(self) -> float:
        target = self._bare / "copy"
        settle()
        took_s = self._work.time(["/bin/cp", "-al", self._tree, target])
        remove(target)
        return took_s


def _record(root: Path) -> dict[str, Any]:
    """Return the record of the one build of a store."""
    (path,) = (root / "builds").glob("*/record.json")
    record: dict[str, Any] = json.loads(path.read_bytes())
    return record


def _with_around(phases: Mapping[str, float], whole_s: float) -> Mapping[str, float]:
    return {**phases, AROUND: whole_s - sum(phases.values())}


def _medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.median([one[name] for one in rounds]) for name in rounds[0]}


def _count(prefix: Path) -> tuple[int, int]:
    """Return the number of files in a prefix, and how many of them are byte-code."""
    names = [name for _, _, files in os.walk(prefix) for name in files]
    return len(names), sum(name.endswith(".pyc") for name in names)


def _write_pylock(path: Path, directory: Path, names: Sequence[str]) -> None:
    entries = []
    for name in names:
        wheel = directory / f"{name}-1.0-py3-none-any.whl"
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        entries.append(
            f'[[packages]]\nname = "{name.replace("_", "-")}"\nversion = "1.0"\n'
            f'wheels = [{{ url = "{wheel.as_uri()}", hashes = {{ sha256 = "{digest}" }} }}]\n'
        )
    path.write_text('lock-version = "1.0"\ncreated-by = "bench"\n' + "".join(entries))
