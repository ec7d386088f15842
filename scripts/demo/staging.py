"""The child process that fills the prefix of a package while rattler-build builds it.

Usage, with the build's prefix in ``$PREFIX``::

    python -m demo.staging interpreter PREFIX EXECUTABLE X.Y
    python -m demo.staging wheel FILE X.Y noarch|compiled

The prefix is a long placeholder path. Text that carries it, rattler-build finds and marks for replacement at install
time. Nothing written here may carry the path of the original interpreter, nor the path of this checkout.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from installer import install
from installer.destinations import SchemeDictionaryDestination
from installer.records import RecordEntry
from installer.sources import WheelFile
from installer.utils import Scheme

from demo import EPOCH

# Left out: what is large and only tests the interpreter, what needs an X server, and what a package does not carry.
_NOT_STAGED_AT_TOP = {"site-packages", "idlelib", "tkinter", "turtledemo", "EXTERNALLY-MANAGED"}
_NOT_STAGED = re.compile(r"__pycache__|tests?|idle_test|_tkinter.*|.*\.(pyc|pyo|a|o)")
_ELF = b"\x7fELF"


def stage_interpreter(source: Path, executable: Path, short_version: str, prefix: Path) -> None:
    """Copy an interpreter from ``source`` into ``prefix`` so that nothing in the copy names ``source``."""
    stdlib = prefix / "lib" / f"python{short_version}"
    _copy_stdlib(source / "lib" / f"python{short_version}", stdlib)
    _copy_matching(source / "lib", prefix / "lib", "libpython*.so*")
    _copy_matching(source / "lib" / "pkgconfig", prefix / "lib" / "pkgconfig", "python*.pc")
    for headers in source.glob(f"include/python{short_version}*"):
        shutil.copytree(headers, prefix / "include" / headers.name)
    _copy_commands(source, executable, short_version, prefix)
    carriers = _forget_source(source, prefix)
    _compile(executable, stdlib, short_version, carriers)


def _copy_stdlib(source: Path, target: Path) -> None:
    def ignored(directory: str, names: list[str]) -> set[str]:
        unwanted = {name for name in names if _NOT_STAGED.fullmatch(name)}
        return unwanted | (_NOT_STAGED_AT_TOP.intersection(names) if Path(directory) == source else set())

    shutil.copytree(source, target, symlinks=True, ignore=ignored)
    # A directory needs a file to be in a package at all; python looks for this one when it starts.
    (target / "site-packages").mkdir()
    (target / "site-packages" / "README.txt").write_text("This directory exists so that packages can be installed.\n")


def _copy_matching(source: Path, target: Path, pattern: str) -> None:
    for path in sorted(source.glob(pattern)):
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target / path.name, follow_symlinks=False)


def _copy_commands(source: Path, executable: Path, short_version: str, prefix: Path) -> None:
    """Copy the interpreter and its scripts, under the names that a conda python has."""
    commands = prefix / "bin"
    commands.mkdir(exist_ok=True)
    # The file behind the name: some installations have a link here.
    shutil.copy2(executable.resolve(), commands / f"python{short_version}")
    for versioned, names in (
        (f"python{short_version}", ("python3", "python")),
        (f"python{short_version}-config", ("python3-config", "python-config")),
        (f"pydoc{short_version}", ("pydoc3", "pydoc")),
    ):
        original = source / "bin" / versioned
        if not (commands / versioned).exists() and original.is_file():
            shutil.copy2(original.resolve(), commands / versioned)
        if (commands / versioned).exists():
            for name in names:
                (commands / name).symlink_to(versioned)


def _forget_source(source: Path, prefix: Path) -> list[Path]:
    """Replace ``source`` in every copied file; return the text files that carry ``prefix`` now.

    In text it becomes the prefix. In binaries no longer text fits, and none is needed: an interpreter finds its
    prefix from where it lies, and rattler-build sets the search path of libraries. There a made-up path of the same
    length stands in (see `_neutral`).
    """
    old, new = os.fsencode(source), os.fsencode(prefix)
    neutral = _neutral(old)
    carriers = []
    for path in sorted(prefix.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        content = path.read_bytes()
        if content.startswith(_ELF):
            _strip(path)
            content = path.read_bytes()
            if old in content:
                _rewrite(path, content.replace(old, neutral))
        elif old in content:
            is_text = b"\0" not in content
            _rewrite(path, content.replace(old, new if is_text else neutral))
            if is_text:
                carriers.append(path)
    return carriers


def _neutral(path: bytes) -> bytes:
    """Return a path that is nobody's, of the same length and with the same last part.

    The same length, so that no offset in a binary moves. The same last part, because linkers store a string that is
    the end of another only once: in an interpreter installed in ``…/3.11.7``, those bytes may be its version, too.
    """
    head, slash, last = path.rpartition(b"/")
    return b"/demo-channel".ljust(len(head), b"_")[: len(head)] + slash + last


def _strip(path: Path) -> None:
    """Drop debugging information, where the machine has the tool; the package is only larger without it."""
    if shutil.which("strip") is not None:
        mode = path.stat().st_mode
        path.chmod(mode | 0o200)
        subprocess.run(["strip", "--strip-unneeded", str(path)], check=False, stderr=subprocess.DEVNULL)
        path.chmod(mode)


def _rewrite(path: Path, content: bytes) -> None:
    mode = path.stat().st_mode
    path.chmod(mode | 0o200)
    path.write_bytes(content)
    path.chmod(mode)


# Before 3.12, which equal strings of a compiled file are written as references depends on what else its compiler's
# process held at that moment. The second format of marshal, which every Python reads, has no references.
_WITHOUT_REFERENCES = """
import marshal, os, sys
header = 16 if sys.version_info >= (3, 7) else 12
for directory, _, names in os.walk(sys.argv[1]) if sys.version_info < (3, 12) else ():
    for name in names:
        if name.endswith(".pyc"):
            with open(os.path.join(directory, name), "r+b") as file:
                data = file.read()
                file.seek(header)
                file.write(marshal.dumps(marshal.loads(data[header:]), 2))
                file.truncate()
"""


def _compile(executable: Path, stdlib: Path, short_version: str, carriers: Iterable[Path]) -> None:
    """Compile the standard library, except the files whose text an installation changes.

    An installed file's time is not the one that it was compiled with, so the compiled file must not depend on it.
    Python 3.6 has no such format; there the time of the package stands in, which an extracted file has.
    """
    how = ["--invalidation-mode", "unchecked-hash"]
    if short_version == "3.6":
        how = []
        for path in stdlib.rglob("*.py"):
            os.utime(path, (EPOCH.timestamp(), EPOCH.timestamp()))
    # Up to Python 3.10 the order of a set of strings depends on the hash seed, which -I would ignore.
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    run = functools.partial(
        subprocess.run, env={**environ, "PYTHONHASHSEED": "0"}, cwd="/", check=True, stdout=subprocess.DEVNULL
    )
    # -d: what a compiled file says of its source; python corrects it on import, the staging path must not stay.
    run(
        [str(executable), "-s", "-m", "compileall", "-q", "-j", "0", "-d", f"lib/{stdlib.name}", *how, str(stdlib)],
        check=False,  # the standard library has files that are meant not to compile
    )
    run([str(executable), "-s", "-c", _WITHOUT_REFERENCES, str(stdlib)])
    for path in carriers:
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
            compiled.unlink()


class _Destination(SchemeDictionaryDestination):
    """A prefix whose scripts are rewritten when they are installed, so RECORD lists them without hash and size."""

    def finalize_installation(
        self, scheme: Scheme, record_file_path: str, records: Iterable[tuple[Scheme, RecordEntry]]
    ) -> None:
        settled = (
            (kind, RecordEntry(entry.path, None, None) if kind == "scripts" else entry) for kind, entry in records
        )
        super().finalize_installation(scheme, record_file_path, [one for one in settled if one[1].path])


class _NoarchDestination(_Destination):
    """A prefix without generated scripts: for ``noarch: python`` the installing side makes them."""

    def write_script(self, name: str, module: str, attr: str, section: str) -> RecordEntry:  # noqa: ARG002
        return RecordEntry(path="", hash_=None, size=None)


def stage_wheel(wheel: Path, short_version: str, prefix: Path, *, is_noarch: bool) -> None:
    """Unpack ``wheel`` into ``prefix`` as its own installer would, signed as installed by conda."""
    site_packages = prefix / "lib" / f"python{short_version}" / "site-packages"
    destination = (_NoarchDestination if is_noarch else _Destination)(
        {
            "purelib": str(site_packages),
            "platlib": str(site_packages),
            "scripts": str(prefix / "bin"),
            "headers": str(prefix / "include"),
            "data": str(prefix),
        },
        interpreter=str(prefix / "bin" / "python"),
        script_kind="posix",
    )
    with WheelFile.open(wheel) as source:
        install(source, destination, additional_metadata={"INSTALLER": b"conda\n"})


def main() -> None:
    """Stage what the command line names into ``$PREFIX``."""
    prefix = Path(os.environ["PREFIX"])
    kind, *rest = sys.argv[1:]
    if kind == "interpreter":
        source, executable, short_version = rest
        stage_interpreter(Path(source), Path(executable), short_version, prefix)
    elif kind == "wheel":
        wheel, short_version, layout = rest
        stage_wheel(Path(wheel), short_version, prefix, is_noarch=layout == "noarch")
    else:
        raise SystemExit(f"unknown kind of staging: {kind}")


if __name__ == "__main__":
    main()
