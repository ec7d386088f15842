"""The directory of one run, its channels and stores, and the commands that are run in it.

::

    .bench/
      lock              flock: one run at a time, because two would measure each other
      channel/          the demo channel, kept between runs
      fabricated-<n>/   a channel of fabricated packages, kept between runs
      wheels/           wheels made by hand, kept between runs
      run-…/            stores, prefixes and logs of one run; removed at its end, or by the next run

All of it lies on one file system, so that hard links and syncs are the same for both sides of a comparison.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from benchmarks import fabricating
from benchmarks.measuring import BenchError, timed

SCRIPTS = Path(__file__).resolve().parent.parent
CHECKOUT = SCRIPTS.parent
QUICKSTART = CHECKOUT / "examples" / "quickstart" / "environment.yml"
_PROGRAMS = Path(__file__).resolve().parent
_FORGOTTEN = ("PYTHON", "ENVMGR_", "CONDA_", "UV_", "PIP_", "XDG_")
_WHEELS = 3
_MODULES_OF_A_WHEEL = 30


class Workspace:
    """One run's directory; what is asked for is made at the first call."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.bin = Path(sys.executable).parent
        self.python = self.bin / "python"
        self.log = run / "stderr"
        self.home = run / "home"
        self.home.mkdir()

    # ------------------------------------------------------------------------------------------------------ commands

    def environ(self, root: Path | None = None, **more: str) -> dict[str, str]:
        """Return this process's variables without those that steer Python, conda, pip, uv or envmgr."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_FORGOTTEN)}
        store = {} if root is None else {"ENVMGR_ROOT": str(root)}
        return {**kept, "HOME": str(self.home), **store, **more}

    def time(
        self, command: Sequence[str | Path], environ: Mapping[str, str] | None = None, *, timeout_s: float = 120
    ) -> float:
        """Run a program and return the seconds that it took."""
        return timed(command, self.environ() if environ is None else environ, timeout_s=timeout_s, log=self.log)

    def output(self, command: Sequence[str | Path], environ: Mapping[str, str] | None = None) -> str:
        """Run a program and return what it printed."""
        out = self.run / "stdout"
        timed(command, self.environ() if environ is None else environ, log=self.log, out=out)
        return out.read_text("utf-8")

    def program(self, name: str, *arguments: str | Path) -> list[str | Path]:
        """Return the command that runs a program of this package in a process of its own."""
        return [self.python, "-I", _PROGRAMS / f"{name}.py", *arguments]

    def envmgr(self, root: Path, *words: str | Path) -> float:
        """Run an ``envmgr`` command and return the seconds that the whole process took."""
        return self.time([self.bin / "envmgr", *words], self.environ(root))

    # ------------------------------------------------------------------------------------------- channels and wheels

    @cached_property
    def channel(self) -> str:
        """The URL of the demo channel with this interpreter."""
        made = subprocess.run(
            [self.python, SCRIPTS / "demo_channel", self.run.parent / "channel"],
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            raise BenchError("the demo channel could not be made; see above")
        return made.stdout.splitlines()[-1]

    @cached_property
    def fabricated(self) -> Path:
        """The directory of the channel of fabricated packages (`benchmarks.fabricating`)."""
        directory = self.run.parent / f"fabricated-{fabricating.FORMAT}"
        if not (directory / "done").exists():
            say("fabricating packages (once)")
            shutil.rmtree(directory, ignore_errors=True)
            environ = {**self.environ(), "PYTHONPATH": str(SCRIPTS)}
            self.time([self.python, "-B", "-m", "benchmarks.fabricating", directory], environ)
            (directory / "done").touch()
        return directory

    @cached_property
    def wheels(self) -> Path:
        """A directory of pure wheels with code enough to be compiled."""
        directory = self.run.parent / "wheels"
        directory.mkdir(exist_ok=True)
        for name in self.wheel_names:
            if not (directory / f"{name}-1.0-py3-none-any.whl").exists():
                _make_wheel(directory, name)
        return directory

    @property
    def wheel_names(self) -> tuple[str, ...]:
        return tuple(f"bench_wheel_{number}" for number in range(_WHEELS))

    # --------------------------------------------------------------------------------------------------------- stores

    def new_store(self, name: str, channel: str, **settings: object) -> Path:
        """Make the root of a personal store whose default channel is `channel`."""
        root = self.run / name
        root.mkdir()
        values = {
            "default_channels": [channel],
            "use_condarc": False,
            "use_pip_conf": False,
            "min_free_bytes": 0,
            "min_free_inodes": 0,
            **settings,
        }
        # JSON's texts, numbers, lists and truth values are TOML's.
        (root / "settings.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
        return root

    @cached_property
    def store(self) -> Path:
        """The store in which the quickstart environment is ready."""
        root = self.new_store("store", self.channel)
        say("creating the quickstart environment")
        self.envmgr(root, "create", QUICKSTART)
        return root

    @cached_property
    def name(self) -> str:
        """The name of the quickstart environment."""
        return self.output([self.bin / "envmgr", "name", QUICKSTART]).strip()

    @cached_property
    def prefix(self) -> Path:
        """Where the quickstart environment is now: its build."""
        return Path(os.path.realpath(self.store / "envs" / self.name))

    def spec(self, name: str, text: str) -> Path:
        """Write a spec's file."""
        path = self.run / f"{name}.yml"
        path.write_text(text)
        return path


@contextlib.contextmanager
def opened() -> Iterator[Workspace]:
    """Yield the workspace of a new run, and remove it in the end; the working directory is then an empty one."""
    base = CHECKOUT / ".bench"
    base.mkdir(exist_ok=True)
    with (base / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BenchError(f"another run is measuring in {base}; two would measure each other") from None
        for leftover in base.glob("run-*"):
            remove(leftover)
        run = Path(tempfile.mkdtemp(prefix="run-", dir=base))
        empty = run / "empty"
        empty.mkdir()
        before = Path.cwd()
        os.chdir(empty)  # a program may not find a module where the caller happens to be
        try:
            yield Workspace(run)
        finally:
            os.chdir(before)
            remove(run)


def remove(tree: Path) -> None:
    """Delete a tree, read-only directories included."""
    for directory, _, _ in os.walk(tree):
        os.chmod(directory, 0o700)
    shutil.rmtree(tree, ignore_errors=True)


def settle() -> None:
    """Bring to disk what others have written, so that the next sync pays only for what comes now."""
    os.sync()


def say(words: str) -> None:
    print(f"bench: {words}", file=sys.stderr, flush=True)


def _make_wheel(directory: Path, name: str) -> None:
    body = "".join(
        f"def function_{number}(value, other={number}):\n"
        f'    """Say what {number} is."""\n'
        f"    return [one * other for one in range(value) if one % {number + 2}]\n\n\n"
        for number in range(40)
    )
    files = {f"{name}/module_{number}.py": body for number in range(_MODULES_OF_A_WHEEL)}
    files[f"{name}/__init__.py"] = ""
    info = f"{name}-1.0.dist-info"
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    lines = [f"{where},sha256={_digest(text)},{len(text)}" for where, text in files.items()]
    files[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,"]) + "\n"
    target = directory / f"{name}-1.0-py3-none-any.whl"
    fresh = target.with_suffix(".new")
    with zipfile.ZipFile(fresh, "w", zipfile.ZIP_DEFLATED) as archive:
        for where, text in files.items():
            archive.writestr(where, text)
    fresh.replace(target)


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
