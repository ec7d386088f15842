"""A conda home, called as other programs call it: by its path, with next to no variables."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from answers import Answer, ended

from envmgr.runners.condahome import installation

SPEC = "name: training\ndependencies:\n  - python\n"


class CondaHome:
    """A home in `directory` of the store at `root`; an instance is its ``bin/conda``."""

    def __init__(self, directory: Path, root: Path) -> None:
        self.directory = directory
        self.path = directory / "condahome"
        self.root = root
        self.environ = {"PATH": os.defpath, "HOME": str(directory)}
        self.install()

    def install(self) -> None:
        installation.install(self.path, self.root, lambda _words: None)

    def start(self, *command: str | Path, **options: Any) -> subprocess.Popen[str]:
        """Start a command without any variable of this process."""
        given: dict[str, Any] = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "env": self.environ,
            "cwd": self.directory,
            "text": True,
        }
        return subprocess.Popen([str(word) for word in command], **{**given, **options})

    def __call__(self, *arguments: str | Path, **options: Any) -> Answer:
        return ended(self.start(self.path / "bin" / "conda", *arguments, **options))

    def shell(self, text: str, *, shell: tuple[str, ...] = ("bash", "-c"), **options: Any) -> Answer:
        """Run shell text, with ``$H`` for the home."""
        environ = {**self.environ, "H": str(self.path)}
        return ended(self.start(*shell, text, **{"env": environ, **options}))

    def ok(self, *arguments: str | Path) -> str:
        """Give a command that must succeed and say nothing on standard error; return its output."""
        answer = self(*arguments)
        assert (answer.code, answer.err) == (0, ""), answer
        return answer.out

    def spec(self, name: str, text: str = SPEC) -> Path:
        path = self.directory / f"{name}.yml"
        path.write_text(text)
        return path

    def builds(self) -> list[str]:
        return sorted(os.listdir(self.root / "builds"))

    def stands_for(self, alias: str) -> str:
        return os.readlink(self.root / "envs" / alias)
