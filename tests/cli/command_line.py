"""A store whose builds are made by a fake backend, and two ways to give it commands: in process, and as a process."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from answers import Answer
from fakes.backend import FakeBackend, Orders
from fakes.processes import Forked

from envmgr.cli import main

PROGRAM = Path(__file__).with_name("program.py")
LIMIT_S = 60.0


@dataclass(frozen=True)
class Cli:
    """A store in a directory of its own, with a backend under orders."""

    directory: Path

    @property
    def root(self) -> Path:
        return self.directory / "store"

    @property
    def orders(self) -> Orders:
        return Orders(self.directory / "orders")

    def __call__(self, *words: str | Path) -> Answer:
        """Give a command to this very process."""
        out, err = io.BytesIO(), io.BytesIO()
        with (
            contextlib.redirect_stdout(io.TextIOWrapper(out, write_through=True)) as stdout,
            contextlib.redirect_stderr(io.TextIOWrapper(err, encoding="utf-8", write_through=True)) as stderr,
        ):
            backend = FakeBackend(self.directory / "orders")
            code = main(["--root", str(self.root), *map(str, words)], backend=backend)
            answer = Answer(code, out.getvalue().decode(), err.getvalue().decode())
            stdout.close()
            stderr.close()
        return answer

    def ready(self, *words: str | Path) -> Answer:
        """Give a command that must succeed."""
        answer = self(*words)
        assert answer.code == 0, answer.err
        return answer

    def environ(self) -> dict[str, str]:
        others = ("ENVMGR_", "CONDA_", "PIP_", "PYTHONUNBUFFERED")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(others)}
        return {
            **kept,
            "ENVMGR_ROOT": str(self.root),
            "FAKE_ORDERS": str(self.directory / "orders"),
            "HOME": str(self.directory),
        }

    def start(self, *words: str | Path, **options: Any) -> subprocess.Popen[str]:
        """Start a command as a process of its own."""
        options = {
            "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True,
            "env": self.environ(), **options,
        }  # fmt: skip
        return subprocess.Popen([sys.executable, PROGRAM, *words], **options)

    def run(self, *words: str | Path, stdin: str | None = None, **options: Any) -> Answer:
        """Give a command to a process of its own and wait for its end."""
        process = self.start(*words, **options)
        out, err = process.communicate(stdin, timeout=LIMIT_S)
        return Answer(process.returncode, out, err)

    def as_nobody(self, *words: str | Path) -> Answer:
        """Give a command to a process of another user; it needs root, and what the command imports is imported here."""

        def work() -> Answer:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            return self(*words)

        for directory in (self.directory, *self.directory.parents):
            if not directory.stat().st_mode & 0o001:
                directory.chmod(directory.stat().st_mode | 0o011)
        return Forked(work).result()

    @contextlib.contextmanager
    def using(self, word: str) -> Iterator[int]:
        """Let a process use an environment for the length of the block; give its pid."""
        process = self.start("run", word, "--", "cat")
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("here\n")
            process.stdin.flush()
            assert process.stdout.readline() == "here\n"
            yield process.pid
        finally:
            process.communicate(timeout=LIMIT_S)

    def write(self, text: str, name: str = "environment.yml") -> Path:
        """Write a file beside the store."""
        path = self.directory / name
        path.write_text(text, encoding="utf-8")
        return path

    def spec(self, *requirements: str, label: str = "demo", name: str = "environment.yml") -> Path:
        """Write the spec of these packages."""
        lines = "".join(f"  - {requirement}\n" for requirement in requirements or ("numpy",))
        return self.write(f"name: {label}\ndependencies:\n{lines}", name)

    def leftovers(self) -> list[str]:
        """Return what stands in the store beside whole environments: builds, temporary files, trash."""
        return sorted(
            str(path.relative_to(self.root))
            for pattern in ("builds/*", "trash/*", "**/.tmp-*")
            for path in self.root.glob(pattern)
        )


def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Make a store without environments, of a user without settings, for commands of this process and others."""
    for key in [key for key in os.environ if key.startswith(("ENVMGR_", "CONDA_", "PIP_"))]:
        monkeypatch.delenv(key)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "orders").mkdir()
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "settings.toml").write_text(
        "use_condarc = false\nuse_pip_conf = false\nmin_free_bytes = 0\nmin_free_inodes = 0\n"
    )
    return Cli(tmp_path)
