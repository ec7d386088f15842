"""A stand-in for a site's conda; it is none. It writes down how it was called, and answers as it is told to.

Beside its executable lies ``orders.json``: ``says`` (what it prints for ``--version``), ``info`` (for ``info --json``),
``config`` (for ``config``), and for ``create``: ``hang`` (wait until killed), ``exit`` and ``answer`` (text). Without
an ``answer``, a dry run is answered in the shape that mamba 2 and micromamba give it: for each name asked for, and what
that needs by name, the newest package of the channels, which must be directories. It is no solver.

Each call is a line of ``calls.jsonl`` there: ``{"argv": […], "environ": {…}, "open": [what its descriptors are]}``.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

VALUED = frozenset({"--prefix", "--channel", "--file"})


def install(directory: Path, name: str = "conda", **orders: object) -> Path:
    """Make an executable that does as `orders` say, and return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "orders.json").write_text(json.dumps(orders))
    path = directory / name
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -I {__file__} "$0" "$@"\n')
    path.chmod(0o755)
    return path


def calls(executable: Path, command: str = "create") -> list[Mapping[str, Any]]:
    """Return the calls of `command`, first to last."""
    lines = (executable.parent / "calls.jsonl").read_text().splitlines()
    return [call for call in map(json.loads, lines) if call["argv"][0] == command]


def main(executable: str, *argv: str) -> int:
    directory = Path(executable).parent
    orders = json.loads((directory / "orders.json").read_text())
    with (directory / "calls.jsonl").open("a") as file:
        opened = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        file.write(json.dumps({"argv": argv, "environ": dict(os.environ), "open": opened}) + "\n")
    if argv[0] == "--version":
        sys.stdout.write(orders.get("says", ""))
    elif argv[0] in {"info", "config"}:
        sys.stdout.write(json.dumps(orders.get(argv[0], {})))
    else:
        return create(orders, argv)
    return 0


def create(orders: Mapping[str, Any], argv: tuple[str, ...]) -> int:
    if orders.get("hang"):
        time.sleep(600)
    sys.stdout.write(orders["answer"] if "answer" in orders else json.dumps(answer(argv), indent=4))
    return int(orders.get("exit", 0))


def answer(argv: tuple[str, ...]) -> Mapping[str, object]:
    channels, asked = [], []
    words = iter(argv[1:])
    for word in words:
        if word in VALUED:
            value = next(words)
            channels += [value] if word == "--channel" else []
        elif not word.startswith("-"):
            asked.append(re.split(r"[ =<>!\[]", word.rpartition("::")[2])[0])
    records = {record["name"]: record for record in sorted(known(channels), key=lambda one: one["version"])}
    chosen: dict[str, Mapping[str, Any]] = {}
    while asked:
        name = asked.pop()
        if name in records and name not in chosen:
            chosen[name] = records[name]
            asked += [text.split()[0] for text in records[name]["depends"]]
    packages = [chosen[name] for name in sorted(chosen)]
    return {
        "actions": {"FETCH": packages, "LINK": packages, "PREFIX": "/stand-in"},
        "dry_run": True,
        "prefix": "/stand-in",
        "success": True,
    }


def known(channels: list[str]) -> Iterator[dict[str, Any]]:
    for channel in channels:
        for subdir in ("noarch", os.environ["CONDA_SUBDIR"]):
            index = Path(channel.removeprefix("file://"), subdir, "repodata.json")
            if not index.exists():
                continue
            document = json.loads(index.read_text())
            for file_name, record in {**document["packages"], **document["packages.conda"]}.items():
                url = f"{channel}/{subdir}"
                yield {
                    **record,
                    "build_string": record["build"],
                    "channel": url,
                    "fn": file_name,
                    "subdir": subdir,
                    "url": f"{url}/{file_name}",
                }


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
