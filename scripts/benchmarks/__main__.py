"""The command line of ``scripts/bench``."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn, Protocol

from benchmarks import claiming, creating, fetching, report, serving, sharing, starting, workspace
from benchmarks.cluster import coordinating, growth, scaling
from benchmarks.measuring import BenchError, Figure
from benchmarks.runners import condahome, packing, program, pyjava, raying, sparking
from benchmarks.workspace import Workspace, say


class Group(Protocol):
    """Measures the figures that belong together."""

    def __call__(self, work: Workspace, *, is_quick: bool) -> list[Figure]: ...


GROUPS: dict[str, Group] = {
    "ready": starting.ready,
    "import": starting.importing,
    "hook": starting.hook,
    "launcher": starting.launcher,
    "commands": starting.commands,
    "create": creating.quickstart,
    "pip": creating.with_pip,
    "many": creating.many,
    "cold": creating.cold,
    "slow": sharing.slow_download,
    "waiting": sharing.waiting,
    "fetch": fetching.fetch_once,
    "condahome": condahome.calls,
    "spark": sparking.starting,
    "pack": packing.packing,
    "ray": raying.starting,
    "pyjava": pyjava.starting,
    "socket": serving.round_trips,
    "requests": serving.throughput,
    "memory": serving.memory,
    "rest": serving.rest,
    "ending": serving.ending,
    "claims": claiming.claims,
    "coordination": coordinating.coordination,
    "declared": coordinating.declared,
    "agents": scaling.agents,
    "run": program.starting,
}


def main(arguments: Sequence[str]) -> int:
    """Measure, print the tables, return the exit status: 1 when something failed, or with ``--strict`` was missed."""
    options = _parser().parse_args(arguments)
    # The working directory changes.
    target, plot = (None if path is None else path.absolute() for path in (options.json, options.plot))
    signal.signal(signal.SIGTERM, _stop)
    began, load = time.monotonic(), os.getloadavg()[0]
    figures: list[Figure] = []
    failed: list[str] = []
    try:
        with workspace.opened() as work:
            for name in [name for name in GROUPS if not options.only or name in options.only]:
                say(name)
                try:
                    figures += GROUPS[name](work, is_quick=options.quick)
                except BenchError as error:
                    failed.append(name)
                    say(f"{name} failed: {error}")
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    run = report.Run(figures, options.quick, time.monotonic() - began, (load, os.getloadavg()[0]))
    print(report.text(run))
    if target is not None:
        target.write_text(json.dumps(run.to_json(), indent=1) + "\n", encoding="utf-8")
    if plot is not None and not growth.draw(figures, plot):
        print("bench: no figure of this run grows with anything: nothing to draw", file=sys.stderr)
    if failed:
        print(f"bench: not measured: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed or (options.strict and run.missed) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description="Measure what envmgr costs, and compare it with goals.")
    parser.add_argument("--only", metavar="NAME", nargs="+", choices=GROUPS, help=f"only these: {', '.join(GROUPS)}")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every measurement to this file")
    parser.add_argument("--plot", metavar="FILE", type=Path, help="draw how the cluster's costs grow into this PNG")
    parser.add_argument("--quick", action="store_true", help="few rounds: about two minutes")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when a goal is missed")
    return parser


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(143)


def run() -> NoReturn:
    """Be ``scripts/bench``."""
    try:
        status = main(sys.argv[1:])
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
