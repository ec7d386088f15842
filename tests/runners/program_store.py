"""A store with one small environment in which programs run, and ``envmgr run`` as a process.

The environment has no interpreter: what runs in it is this one's Python, bare, or the shell.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.packages import fabricate, index

import envmgr
from envmgr.runners.program import slots
from envmgr.store.layout import Layout
from envmgr.store.opening import store_id

LIMIT_S = 60.0
ENVMGR = str(Path(sys.executable).with_name("envmgr"))
BARE = (sys.executable, "-I", "-S", "-c")
"""Starts a program's text; nothing of this environment's gets in."""


@dataclass(frozen=True)
class Programs:
    """The store below a directory; its environment is called ``tiny``."""

    directory: Path

    @property
    def root(self) -> Path:
        return self.directory / "store"

    @property
    def spec(self) -> Path:
        return self.directory / "tiny.yml"

    def make(self) -> None:
        """Make the channel, the store and the environment."""
        channel = self.directory / "channel"
        fabricate(channel, "tiny", "1.0", files={"bin/hello": "#!/bin/sh\necho hello\n"})
        index(channel)
        self.root.mkdir()
        (self.root / "settings.toml").write_text(
            f'default_channels = ["{channel.as_uri()}"]\nuse_condarc = false\nmin_free_bytes = 0\nmin_free_inodes = 0\n'
        )
        self.spec.write_text("dependencies: [tiny]\nvariables: {COLOUR: blue}\n")
        envmgr.ensure(self.spec, root=self.root, alias="tiny").close()

    def clear(self) -> None:
        """Delete the locks of its instances, which nobody else will ever ask for."""
        with envmgr.ensure("tiny", root=self.root) as environment:
            key = slots.key(store_id(Layout(self.root)), environment.name)
        for path in slots.directory().glob(f"envmgr-{key}-*"):
            path.unlink()

    def environ(self) -> dict[str, str]:
        others = ("ENVMGR_", "CONDA_", "PYTHON", "OMP_")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(others)}
        return {**kept, "ENVMGR_ROOT": str(self.root), "HOME": str(self.directory)}

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        """Start ``envmgr run`` with these words."""
        options = {
            "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True,
            "env": self.environ(), **options,
        }  # fmt: skip
        return subprocess.Popen([ENVMGR, "run", *words], **options)

    def run(self, *words: str) -> tuple[int, str, str]:
        """Do the same, to its end; return the status, standard output, and standard error."""
        process = self.start(*words)
        out, err = process.communicate(timeout=LIMIT_S)
        return process.returncode, out, err

    @contextlib.contextmanager
    def running(self, *words: str, text: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
        """Give ``envmgr run`` whose program, a Python text, has said that it is up by a line; it is killed at last."""
        process = self.start("tiny", *words, "--", *BARE, text, **options)
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "up\n", process.communicate(timeout=LIMIT_S)
            yield process
        finally:
            process.kill()
            process.communicate(timeout=LIMIT_S)


def until(is_so: Callable[[], object]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < deadline, "it never was so"
        time.sleep(0.01)


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in b"ZX"
    except OSError:
        return True
