"""Stores on file systems that are full, read-only, of another owner or of another time, with real builds.

Small file systems are mounted in a mount namespace of their own, which ends with the process that holds it: whatever
becomes of the test, no mount stays.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from demo.packages import fabricate, index
from whole_hosts import Host

MakeHost = Callable[[str], Host]
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@pytest.fixture
def large_channel(tmp_path: Path) -> Path:
    """A channel with ``big``, of 3 MiB that do not compress, and ``many``, of 150 files."""
    directory = tmp_path / "channel"
    fabricate(directory, "big", "1.0", files={"share/big.bin": os.urandom(3 << 20)})
    fabricate(directory, "many", "1.0", files={f"share/many/{number}": f"{number}\n" for number in range(150)})
    index(directory)
    return directory


class Disk:
    """A small file system in a mount namespace of its own; `host` has its store there."""

    def __init__(self, directory: Path, options: str) -> None:
        directory.mkdir()
        script = 'mount -t tmpfs -o "$1" tmpfs "$2" && echo mounted && exec cat'
        self._directory = directory
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script, "sh", options, str(directory)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "mounted\n"
        self.enter = ("nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt")

    def remount(self, options: str) -> None:
        command = [*self.enter, "mount", "-o", f"remount,{options}", str(self._directory)]
        subprocess.run(command, check=True)

    def seen(self, path: Path) -> Path:
        """Return the way to a path on the disk from outside of the namespace."""
        return Path(f"/proc/{self._holder.pid}/root{path}")

    def left(self, root: Path) -> list[str]:
        """Return what is in the store beside its own directories and the verified packages."""
        return sorted(
            str(path.relative_to(self.seen(root)))
            for pattern in ("builds/*", "trash/*", "envs/*", "**/.tmp-*")
            for path in self.seen(root).glob(pattern)
        )

    def close(self) -> None:
        self._holder.communicate()


@pytest.fixture
def make_disk(tmp_path: Path) -> Iterator[Callable[[str], tuple[Disk, Host]]]:
    made: list[Disk] = []

    def make(options: str) -> tuple[Disk, Host]:
        disk = Disk(tmp_path / f"disk{len(made)}", options)
        made.append(disk)
        host = Host(tmp_path / f"host{len(made)}", {"default_channels": []}, through=disk.enter)
        return disk, host

    yield make
    for disk in made:
        disk.close()


def on_disk(disk: Disk, host: Host) -> tuple[str, ...]:
    """Return the words that put the store on the disk; its settings come from the host's environment."""
    return ("--root", str(disk._directory / "store"))


def refused(disk: Disk, host: Host, *words: str | Path) -> tuple[int, dict[str, object]]:
    settings = {"ENVMGR_MIN_FREE_BYTES": "0", "ENVMGR_MIN_FREE_INODES": "0", "ENVMGR_USE_CONDARC": "false"}
    answer = host.run(*on_disk(disk, host), *words, "--json", env={**host.environ(), **settings})
    assert "Traceback" not in answer.err
    return answer.code, json.loads(answer.out)


BYTES = ["16k", "256k", "3200k", "4m", "6200k", "6400k"]
INODES = [4, 12, 20, 32, 60, 200]


@NEEDS_ROOT
@pytest.mark.parametrize(("kind", "limits"), [("size", BYTES), ("nr_inodes", INODES)])
def test_full_disk(
    make_disk: Callable[[str], tuple[Disk, Host]], large_channel: Path, kind: str, limits: list[object]
) -> None:
    """Wherever bytes or inodes run out, it is `no_space`, nothing is left, and with more room the create succeeds."""
    codes = []
    for limit in limits:
        disk, host = make_disk(f"{kind}={limit}")
        spec = host.spec("big", "many", channels=[large_channel.as_uri()])
        code, record = refused(disk, host, "create", spec)
        codes.append(code)
        if code != 0:
            assert (code, record["error"]["code"]) == (10, "no_space"), (limit, record)  # type: ignore[index]
            assert disk.left(disk._directory / "store") == [], limit
        disk.remount(f"{kind}={'64m' if kind == 'size' else 4000}")
        code, record = refused(disk, host, "create", spec, "--retry")
        assert code == 0, (limit, record)
        assert refused(disk, host, "verify", str(record["name"]))[0] == 0
        disk.close()
    assert codes[0] == 10
    assert codes.count(10) >= len(limits) - 2


@NEEDS_ROOT
def test_read_only_file_system(make_disk: Callable[[str], tuple[Disk, Host]], large_channel: Path) -> None:
    """A store that became read-only refuses to create and to remove, and what is ready goes on being used."""
    disk, host = make_disk("size=64m")
    spec = host.spec("many", channels=[large_channel.as_uri()])
    code, record = refused(disk, host, "create", spec)
    assert code == 0, record
    disk.remount("ro")
    other = host.spec("big", channels=[large_channel.as_uri()])
    for words in (("create", other), ("remove", str(record["name"])), ("lock", other)):
        code, error = refused(disk, host, *words)
        assert (code, error["error"]["code"]) == (11, "permission"), error  # type: ignore[index]
    code, again = refused(disk, host, "create", spec)
    assert (code, again["built"]) == (0, False)
    run = host.run(*on_disk(disk, host), "run", str(record["name"]), "--", "true")
    assert run.code == 0, run.err
    code, _ = refused(disk, host, "list")
    assert code == 0


@NEEDS_ROOT
def test_read_only_from_the_beginning(make_disk: Callable[[str], tuple[Disk, Host]], large_channel: Path) -> None:
    """Where no store can be made, it is `permission`, also to those who only look."""
    disk, host = make_disk("size=1m")
    disk.remount("ro")
    code, error = refused(disk, host, "create", host.spec("many", channels=[large_channel.as_uri()]))
    assert (code, error["error"]["code"]) == (11, "permission"), error  # type: ignore[index]
    assert refused(disk, host, "list")[0] == 0


def test_too_little_space_before_the_build(host: Host, channel: Path) -> None:
    """With less free than the settings ask for, nothing is begun."""
    spec = host.spec("app", channels=[channel.as_uri()])
    for key, value in (("min_free_bytes", 1 << 60), ("min_free_inodes", 10**11)):
        host.set(min_free_bytes=0, min_free_inodes=0)
        host.set(**{key: value})
        code, error = host.refused("create", spec)
        assert (code, error["code"]) == (10, "no_space")
        assert key in error["hint"]
        assert host.builds() == []


@pytest.mark.parametrize("command", ["create", "remove", "lock", "relock", "repair", "verify", "list", "doctor"])
def test_store_of_a_newer_version(host: Host, channel: Path, command: str) -> None:
    """A store that a newer envmgr wrote is neither read nor written."""
    spec = host.spec("app", channels=[channel.as_uri()])
    host.create(spec)
    owner = host.root / "owner"
    document = json.loads(owner.read_text())
    owner.write_text(json.dumps({**document, "format": 99}))
    other = host.spec("lib", channels=[channel.as_uri()])
    words = {"list": (), "doctor": ()}.get(command, (other,) if command in {"create", "lock"} else (spec,))
    code, error = host.refused(command, *words)
    assert (code, error["code"]) == (11, "store_too_new")
    assert "99" in error["message"]


@NEEDS_ROOT
def test_store_of_somebody_else(host: Host, channel: Path) -> None:
    """Who does not own a store can use what is ready, and is refused with the owner's number for all that writes."""
    spec = host.spec("app", channels=[channel.as_uri()])
    record = host.create(spec)
    owner = host.root / "owner"
    owner.write_text(json.dumps({**json.loads(owner.read_text()), "uid": 12345}))
    other = host.spec("lib", channels=[channel.as_uri()])
    for words in (("create", other), ("remove", spec), ("relock", spec), ("repair", spec), ("lock", other), ("gc",)):
        code, error = host.refused(*words)
        assert (code, error["code"]) == (11, "permission"), words
        assert "12345" in error["message"]
    assert host.ready("create", spec)["built"] is False
    assert host.run("run", record["name"], "--", "true").code == 0
    assert host.run("verify", record["name"]).code == 0


def test_root_that_is_a_file(host: Host, channel: Path) -> None:
    """A root that cannot be a store is a usage error, not a crash."""
    path = host.write("not a directory\n", "file")
    code, error = host.refused("--root", path, "create", host.spec("app", channels=[channel.as_uri()]))
    assert (code, error["code"]) == (2, "usage")
