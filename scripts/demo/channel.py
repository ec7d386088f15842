"""Makes the channel, in an order that survives an interruption and a second run at the same time.

Layout of the directory::

    .demo-channel.lock      held by the run that writes; never removed, so that all runs mean the same file
    .demo-channel.json      the record: which pythons are here, written last
    noarch/, linux-64/      packages, repodata.json, repodata.json.zst and shards

What the next run may conclude: a package that is there is whole (each was moved into place); the channel is complete
for exactly the pythons that the record names; a directory that is not empty and has no lock is somebody else's.

Not promised: a reader who looks while another python is being added may see the old index or the new one of each
subdir.
"""

import fcntl
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from demo import interpreter as interpreters
from demo import packages, wheels
from demo.errors import DemoError
from demo.interpreter import Interpreter
from demo.packages import Package
from demo.wheels import Wheel

FORMAT = 1
LOCK_TIMEOUT_S = 900
_POLL_S = 0.2

_LOCK = ".demo-channel.lock"
_RECORD = ".demo-channel.json"


def create(directory: Path, executables: Sequence[Path]) -> str:
    """Make ``directory`` a channel with a python of each of ``executables``; return its ``file://`` URL.

    Returns at once if the channel has them all. Otherwise blocks: for another run on the same directory (at most
    `LOCK_TIMEOUT_S`), for the network and for the builds. On return the channel is complete.
    """
    directory = directory.expanduser().absolute()
    wanted = _distinct([interpreters.inspect(one) for one in executables])
    _claim(directory)
    with _locked(directory / _LOCK):
        present = _pythons_in(directory)
        missing = [one for one in wanted if one.version not in present]
        if missing:
            started = time.monotonic()
            _complete(directory, missing)
            _write_record(directory, present | {one.version for one in missing})
            _say(f"{directory} is complete ({time.monotonic() - started:.0f} s)")
        else:
            _say(f"{directory} is complete already")
    return directory.as_uri()


def _distinct(found: Sequence[Interpreter]) -> list[Interpreter]:
    """Return one interpreter for each version, the first one named."""
    by_version: dict[str, Interpreter] = {}
    for one in found:
        if by_version.setdefault(one.version, one) is not one:
            _say(f"python {one.version} is named twice: {by_version[one.version].prefix} is used, not {one.prefix}")
    return list(by_version.values())


def _claim(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()) and not (directory / _LOCK).exists():
        raise DemoError(f"{directory} is neither empty nor a demo channel", hint="name an empty or a new directory")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the directory's lock; it ends with the process, so a killed run blocks nobody."""
    with path.open("a") as lock:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        has_announced = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not has_announced:
                    _say(f"another run is making {path.parent}; waiting for it (at most {LOCK_TIMEOUT_S} s)")
                    has_announced = True
                if time.monotonic() > deadline:
                    raise DemoError(
                        f"another run has held {path} for {LOCK_TIMEOUT_S} s", hint="end it, or name another directory"
                    ) from None
                time.sleep(_POLL_S)
        yield


def _pythons_in(directory: Path) -> set[str]:
    try:
        record = json.loads((directory / _RECORD).read_text())
    except FileNotFoundError:
        return set()
    if record["format"] != FORMAT:
        raise DemoError(f"{directory} was made by another version of demo_channel", hint="remove it and run again")
    return set(record["pythons"])


def _write_record(directory: Path, versions: set[str]) -> None:
    record = directory / _RECORD
    fresh = record.with_suffix(".new")
    fresh.write_text(json.dumps({"format": FORMAT, "pythons": sorted(versions)}) + "\n")
    fresh.replace(record)


def _complete(directory: Path, missing: Sequence[Interpreter]) -> None:
    """Add ``missing`` to the channel. Packages first, then the index; the caller writes the record last."""
    packages.clear_landings(directory)
    with tempfile.TemporaryDirectory() as downloaded, ThreadPoolExecutor(max_workers=2) as pool:
        # pip waits for the network while the interpreters are packed.
        fetched = {one: pool.submit(wheels.fetch, one, Path(downloaded, one.version)) for one in missing}
        for one in missing:
            _add_interpreter(directory, one)
        for one in missing:
            _add_wheels(directory, one, *fetched[one].result())
    _say("writing the index")
    packages.index(directory)


def _add_interpreter(directory: Path, one: Interpreter) -> None:
    glibc = os.confstr("CS_GNU_LIBC_VERSION")
    if glibc is None:
        raise DemoError("this machine has no glibc, which the packages need")
    _add(
        directory,
        interpreters.package_of(one, glibc.split()[-1]),
        ["interpreter", str(one.prefix), str(one.executable), one.short_version],
    )
    packages.fabricate(
        directory,
        "python_abi",
        one.short_version,
        build=f"0_{one.abi}",
        depends=[f"python {one.short_version}.*"],
    )


def _add_wheels(directory: Path, one: Interpreter, found: Sequence[Wheel], without: Sequence[str]) -> None:
    for name in without:
        _say(f"no wheel of {name} for python {one.version}: left out")
    for wheel in found:
        package = wheels.convert(wheel, one)
        layout = "compiled" if package.noarch is None else "noarch"
        _add(directory, package, ["wheel", str(wheel.path), one.short_version, layout])


def _add(directory: Path, package: Package, staging: Sequence[str]) -> None:
    if package.path_in(directory).exists():
        return
    started = time.monotonic()
    packages.build(package, directory, staging)
    _say(f"{package.subdir}/{package.file_name} ({time.monotonic() - started:.1f} s)")


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
