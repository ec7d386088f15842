"""What importing costs, told by what lands in ``sys.modules``."""

from __future__ import annotations

import subprocess
import sys

import pytest

THIRD_PARTY = ("conda_lock", "filelock", "kazoo", "packaging", "psutil", "rattler", "rich", "typer", "uv", "yaml")
DEAR = ("asyncio", "ctypes", "dataclasses", "enum", "json", "pathlib", "re", "subprocess", "typing")


def modules_after(statement: str) -> set[str]:
    """Return what a bare interpreter has loaded after `statement`, beyond what it had before."""
    program = (
        f"import sys; sys.path.insert(0, sys.argv[1]); a = set(sys.modules); {statement}; print(*set(sys.modules) - a)"
    )
    root = __import__("envmgr").__path__[0].rpartition("/")[0]
    run = subprocess.run([sys.executable, "-I", "-S", "-c", program, root], capture_output=True, text=True, check=True)
    return {module.partition(".")[0] if not module.startswith("envmgr") else module for module in run.stdout.split()}


@pytest.mark.parametrize("module", ["envmgr", "envmgr.ready", "envmgr.launcher", "envmgr.cli"])
def test_hot_path_imports_neither_third_party_nor_dear_modules(module: str) -> None:
    """The library, the hot path and the launcher load nothing third-party and nothing that costs start-up."""
    loaded = modules_after(f"import {module}")
    assert module in loaded
    assert loaded.isdisjoint(THIRD_PARTY)
    assert loaded.isdisjoint(DEAR)


@pytest.mark.parametrize("module", ["envmgr.wiring", "envmgr.cli.process"])
def test_parent_never_imports_what_lives_in_the_builder(module: str) -> None:
    """Neither loads rattler or conda_lock, which belong to the builder's process, nor kazoo before it is needed."""
    program = f"import sys, {module}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert module in loaded
    assert loaded.isdisjoint({"rattler", "conda_lock", "kazoo"})
