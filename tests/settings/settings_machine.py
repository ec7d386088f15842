"""A machine made of directories: what would stand in /etc, in a home directory and in a store."""

from __future__ import annotations

from pathlib import Path

from envmgr.settings import Mode, Settings, load


class Machine:
    """Real files below one directory, and an environment that is passed, never set."""

    def __init__(self, base: Path) -> None:
        self.etc = base / "etc"
        self.home = base / "home"
        self.root = base / "store"
        self.environ: dict[str, str] = {}
        for directory in (self.etc, self.home, self.root):
            directory.mkdir()

    def write(self, path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def site(self, text: str) -> Path:
        return self.write(self.etc / "envmgr" / "settings.toml", text)

    def personal(self, text: str) -> Path:
        return self.write(self.home / ".config" / "envmgr" / "settings.toml", text)

    def store(self, text: str) -> Path:
        return self.write(self.root / "settings.toml", text)

    def condarc(self, text: str) -> Path:
        return self.write(self.home / ".condarc", text)

    def load(self, mode: Mode = "personal", subdir: str = "linux-64", **environ: str) -> Settings:
        return load(
            root=self.root,
            mode=mode,
            environ={**self.environ, **environ},
            home=self.home,
            etc=self.etc,
            subdir=subdir,
        )
