"""One host as its users see it: a store on disk, a channel on disk, and ``envmgr`` as processes of its own.

Nothing here is a stand-in: builds are made by the real builder from real packages. What waits, waits for a process, a
pipe or a file; `LIMIT_S` only bounds how long a failing test takes.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import io
import json
import os
import select
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from answers import Answer, ended
from demo.packages import fabricate, index

from envmgr import wiring
from envmgr.backends import families
from envmgr.backends.spawner import Spawner
from envmgr.manager.manager import Manager
from envmgr.names import EnvName

LIMIT_S = 90.0
SEARCH = "import sys\nfor line in sys.stdin:\n    print(eval(line), flush=True)\n"
"""A job that answers each line on standard input with its value."""


@dataclass
class Host:
    """A store below `directory`, and how commands reach it (`through`: what they are started by, such as nsenter)."""

    directory: Path
    settings: dict[str, object] = field(default_factory=dict)
    through: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self.set()

    @property
    def root(self) -> Path:
        return self.directory / "store"

    def set(self, **changes: object) -> None:
        """Change settings of the store; of the machine's own files none counts."""
        self.settings.update(changes)
        basis = {"use_condarc": False, "use_pip_conf": False, "min_free_bytes": 0, "min_free_inodes": 0}
        values = {**basis, **self.settings}
        lines = [f"{key} = {json.dumps(value)}\n" for key, value in values.items()]
        (self.root / "settings.toml").write_text("".join(lines))

    # ----------------------------------------------------------------------------------------------------- commands

    def environ(self) -> dict[str, str]:
        foreign = ("ENVMGR_", "CONDA_", "PIP_", "UV_", "PYTEST")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(foreign)}
        return {**kept, "ENVMGR_ROOT": str(self.root), "HOME": str(self.directory)}

    def start(self, *words: str | Path, program: Sequence[str | Path] = ("-m", "envmgr"), **options: Any) -> Process:
        """Start ``envmgr`` with these words, or another program of this Python."""
        command = [*self.through, sys.executable, *program, *words]
        given = {"env": self.environ(), "cwd": self.directory, "stdin": subprocess.DEVNULL, **options}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **given)

    def run(self, *words: str | Path, **options: Any) -> Answer:
        """Give a command and wait for its end."""
        return ended(self.start(*words, **options))

    def ready(self, *words: str | Path) -> dict[str, Any]:
        """Give a command that must succeed; return its record."""
        answer = self.run(*words, "--json")
        assert answer.code == 0, answer.out + answer.err
        return answer.record

    def create(self, spec: Path, *words: str | Path) -> dict[str, Any]:
        return self.ready("create", spec, *words)

    def refused(self, *words: str | Path) -> tuple[int, dict[str, Any]]:
        """Give a command that must fail; return its exit code and its error."""
        answer = self.run(*words, "--json")
        assert answer.code != 0, answer.out
        assert "Traceback" not in answer.err
        return answer.code, answer.error

    def manager(self, command: Sequence[str] | None = None) -> Manager:
        """Return a manager in this process; `command` starts its builders."""
        return wiring.manager(str(self.root), backend=Spawner(command))

    # -------------------------------------------------------------------------------------------------------- specs

    def write(self, text: str, name: str = "environment.yml") -> Path:
        path = self.directory / name
        path.write_text(text)
        return path

    def spec(self, *conda: str, channels: Sequence[str] = (), pip: Sequence[str] = (), name: str = "") -> Path:
        """Write a spec of these requirements."""
        document: dict[str, object] = {"dependencies": [*conda, *([{"pip": list(pip)}] if pip else [])]}
        if channels:
            document = {"channels": [*channels, "nodefaults"], **document}
        word = hashlib.sha256(repr(document).encode()).hexdigest()[:8]
        return self.write(json.dumps(document, indent=1), name or f"spec-{word}.yml")

    # ------------------------------------------------------------------------------------------------------- a look

    def names(self) -> list[str]:
        return sorted(path.name for path in (self.root / "envs").glob("env-*"))

    def builds(self) -> list[str]:
        return sorted(os.listdir(self.root / "builds"))

    def prefix(self, name: str) -> Path:
        return (self.root / "envs" / name).resolve(strict=True)

    def litter(self) -> list[str]:
        """Return what stands in the store beside whole environments: builds without a name, trash, temporary files."""
        kept = {(self.root / "envs" / name).resolve().parents[1].name for name in self.names()}
        found = [f"builds/{build}" for build in self.builds() if build not in kept]
        found += [f"trash/{entry}" for entry in os.listdir(self.root / "trash")]
        own = ("", "envs", "builds", "builds/*", "names", "names/*", "by-text", "locks")
        patterns = [f"{place}/.tmp-*".lstrip("/") for place in own]
        found += [str(path.relative_to(self.root)) for pattern in patterns for path in self.root.glob(pattern)]
        return sorted(found)

    def unfinished(self) -> list[str]:
        """Return what killed builders left in the package cache."""
        return sorted(str(path) for path in self.root.glob("pkgs/*/.tmp-*"))

    def held_locks(self) -> list[str]:
        """Return the build locks that somebody holds."""
        found = []
        for path in (self.root / "locks").glob("env-*.lock"):
            fd = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                found.append(path.name)
            finally:
                os.close(fd)
        return found

    def check_whole(self) -> None:
        """Assert that each name is whole or absent, and that no lock and no process of a build stays."""
        assert processes_of_builds(self.root) == []
        assert self.held_locks() == []
        manager = wiring.manager(str(self.root), writable=False)
        for name in self.names():
            assert manager.verify(EnvName(name)) == ()

    def check_recovers(self, *specs: Path) -> None:
        """Assert that, whatever happened, the store is whole, each spec can be created, and nothing is left over."""
        self.check_whole()
        for spec in specs:
            self.create(spec, "--retry")
        self.check_whole()
        for path in self.litter():
            # As if found a day later: gc takes no file for a killed writer's that may be a living one's.
            os.utime(self.root / path, (0, 0), follow_symlinks=False)
        self.ready("gc")
        assert self.litter() == []
        assert self.unfinished() == []


Process = subprocess.Popen[str]


def line_of(stream: IO[str] | None, part: str) -> str:
    """Read lines until one contains `part`, and return it; fails at the stream's end."""
    assert stream is not None
    seen = []
    while line := stream.readline():
        seen.append(line)
        if part in line:
            return line
    raise AssertionError(f"no line with {part!r} in: {''.join(seen)}")


def processes_of_builds(root: Path) -> list[int]:
    """Return the processes that carry the mark of a build of this store."""
    mark = f"{families.MARK}={root}/builds/".encode()
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/environ", "rb") as file:
                if mark in file.read():
                    found.append(int(entry))
    return found


class Job:
    """A long-running program in an environment that does what it is told, line by line."""

    def __init__(self, command: Sequence[str | Path], **options: Any) -> None:
        self.process: Process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def ask(self, expression: str) -> str:
        """Return the printed value of an expression, evaluated in the job."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], LIMIT_S)[0]:
            raise TimeoutError(expression)
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read() if self.process.stderr else ""
        return line.rstrip("\n")

    def end(self) -> None:
        ended(self.process)

    def __enter__(self) -> Job:  # noqa: PYI034 - `Self` is not in Python 3.10
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.communicate(timeout=LIMIT_S)


# ---------------------------------------------------------------------------------------------- what channels hold


def payload(channel: Path, version: str, name: str = "payload") -> None:
    """Put a version of a Python package into a channel: ``early`` and ``late`` modules that say their version."""
    text = f"import sys\nversion = {version!r}\ndef where():\n    return version, sys.prefix\n"
    root = f"site-packages/{name}"
    files: dict[str, str | bytes] = {
        f"{root}/__init__.py": f"version = {version!r}\n",
        f"{root}/early.py": text,
        f"{root}/late.py": text,
    }
    fabricate(channel, name, version, depends=["python"], noarch="python", files=files)
    index(channel)


def corrupt(path: Path) -> None:
    """Change bytes in the middle of a file without changing its size."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4] = bytes(byte ^ 0xFF for byte in data[middle : middle + 4])
    path.write_bytes(data)


def write_wheel(directory: Path, name: str, version: str, requires: Sequence[str] = ()) -> Path:
    """Write a pure wheel with one module that says its version."""
    directory.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    lines = "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
    members = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{lines}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{member},sha256={_digest(text)},{len(text)}\n" for member, text in members.items())
    path = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in {**members, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(zipfile.ZipInfo(member), text)
    return path


_WHEEL_MAKER = """\
import base64, hashlib, os, zipfile
def build_wheel(directory, config_settings=None, metadata_directory=None):
    info = "{name}-{version}.dist-info"
    path = os.path.join(directory, "{name}-{version}-py3-none-any.whl")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("{name}.py", "version = 'built'\\n")
        archive.writestr(info + "/METADATA", "Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        archive.writestr(info + "/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        archive.writestr(info + "/RECORD", "")
    return os.path.basename(path)
"""


def write_sdist(directory: Path, name: str, version: str) -> Path:
    """Write a source archive that can be built with nothing but Python."""
    directory.mkdir(parents=True, exist_ok=True)
    sources = {
        "PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "maker"\nbackend-path = ["."]\n',
        "maker.py": _WHEEL_MAKER.format(name=name, version=version),
    }
    path = directory / f"{name}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for member, text in sources.items():
            entry = tarfile.TarInfo(f"{name}-{version}/{member}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


def write_links(directory: Path) -> None:
    """Write ``links.html``, a page for ``--find-links`` with the archives in ``directory/files`` and their hashes."""
    links = "".join(
        f'<a href="files/{path.name}#sha256={hashlib.sha256(path.read_bytes()).hexdigest()}">{path.name}</a>\n'
        for path in sorted((directory / "files").iterdir())
    )
    (directory / "links.html").write_text(f"<!DOCTYPE html><html><body>\n{links}</body></html>\n")


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@contextlib.contextmanager
def all_of(processes: Sequence[Process]) -> Iterator[Sequence[Process]]:
    """End what still runs of these when the block ends."""
    try:
        yield processes
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()


def versions(record: Mapping[str, Any]) -> dict[str, str]:
    """Return package -> version of what a prefix has."""
    metas = Path(record["prefix"], "conda-meta").glob("*.json")
    documents = [json.loads(path.read_text()) for path in metas]
    return {document["name"]: document["version"] for document in documents}
