"""Environments as one file: from a host with a channel to one without any network."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from whole_hosts import Host

from envmgr.errors import Corrupt, EnvironmentNotFound, LockfileMismatch, UsageError
from envmgr.manager import bundles
from envmgr.names import EnvName

Member = tuple[tarfile.TarInfo, bytes]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, small_channel: Path) -> tuple[Host, Path, Path]:
    """A host with an environment, its spec, and its bundle; nothing of it is changed."""
    directory = tmp_path_factory.mktemp("bundles")
    channel = directory / "channel"
    shutil.copytree(small_channel, channel)
    host = Host(directory / "host", {"default_channels": []})
    spec = host.spec("app", channels=[channel.as_uri()])
    host.create(spec)
    path = directory / "bundle.tar"
    record = host.ready("bundle", "export", spec, path)
    assert (record["archives"], record["output"]) == (2, str(path))
    shutil.rmtree(channel)
    return host, spec, path


@pytest.fixture
def island(tmp_path: Path) -> Host:
    """A host that may not touch the network."""
    return Host(tmp_path / "island", {"default_channels": [], "offline": True})


def test_a_site_without_a_network(made: tuple[Host, Path, Path], island: Host) -> None:
    """What was imported builds offline, with the same packages; gc before that leaves its archives alone."""
    host, spec, bundle = made
    assert island.refused("create", spec)[0] != 0
    (name,) = host.names()
    assert island.run("bundle", "import", bundle).out == f"{name}\n"
    island.ready("gc", "--min-age", "1s")
    there = island.create(spec)
    assert there["name"] == name
    assert there["lock_digest"] == host.ready("show", spec)["lock_digest"]
    assert island.ready("verify", spec)["is_whole"]
    island.ready("bundle", "import", bundle)  # a second time changes nothing
    assert island.unfinished() == []
    assert host.refused("bundle", "export", spec, bundle)[1]["code"] == "usage"  # it is there already


def rewritten(path: Path, other: Path, change: Callable[[list[Member]], list[Member]]) -> Path:
    """Write a bundle with other members."""
    with tarfile.open(path) as tar:
        members: list[Member] = []
        for member in tar:
            file = tar.extractfile(member)
            members.append((member, b"" if file is None else file.read()))
    with tarfile.open(other, "w") as tar:
        for member, data in change(members):
            tar.addfile(member, io.BytesIO(data))
    return other


def added(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Callable[[list[Member]], list[Member]]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return lambda members: [*members, (member, b"")]


def damaged(members: list[Member]) -> list[Member]:
    """Change the last byte of the last archive."""
    member, data = members[-1]
    return [*members[:-1], (member, data[:-1] + bytes([data[-1] ^ 1]))]


def other_spec(members: list[Member]) -> list[Member]:
    """Give the spec's text to another name."""
    document = json.loads(members[0][1])
    document["environments"][0]["spec"]["canonical_text"] += "x"
    return rewritten_manifest(members, document)


def other_requirements(members: list[Member]) -> list[Member]:
    """Leave the canonical text, and have something else built."""
    document = json.loads(members[0][1])
    document["environments"][0]["spec"]["variables"] = [["EVIL", "1"]]
    return rewritten_manifest(members, document)


def sparse(members: list[Member]) -> list[Member]:
    """Let the last archive be one with holes, in the words of GNU tar."""
    member, data = members[-1]
    member.pax_headers = {"GNU.sparse.size": str(len(data)), "GNU.sparse.map": f"0,{len(data)}"}
    return [*members[:-1], (member, data)]


def odd_header(members: list[Member]) -> list[Member]:
    """Have tarfile read a number that is none."""
    member, data = members[-1]
    member.pax_headers = {"GNU.sparse.map": "0,-"}
    return [*members[:-1], (member, data)]


def rewritten_manifest(members: list[Member], document: object) -> list[Member]:
    member, _ = members[0]
    changed = json.dumps(document).encode()
    member.size = len(changed)
    return [(member, changed), *members[1:]]


@pytest.mark.parametrize(
    "change",
    [
        damaged,
        other_spec,
        other_requirements,
        sparse,
        odd_header,
        lambda members: odd_header(members[:1]),
        added("../../envs/evil"),
        added("/etc/evil"),
        added("archives/" + "0" * 64, tarfile.SYMTYPE, "/etc/passwd"),
        added("archives/" + "0" * 64),
        lambda members: members[:-1],
        lambda members: members[1:],
        lambda _members: [],
    ],
    ids=[
        "damaged",
        "spec",
        "requirements",
        "sparse",
        "header",
        "first",
        "upwards",
        "absolute",
        "link",
        "foreign",
        "lacking",
        "headless",
        "empty",
    ],
)
def test_what_is_no_whole_bundle(
    made: tuple[Host, Path, Path], island: Host, tmp_path: Path, change: Callable[[list[Member]], list[Member]]
) -> None:
    """It is refused (exit code 12), writes nothing outside the cache, and puts no lockfile in force."""
    context = island.manager().context
    with pytest.raises(Corrupt):
        bundles.import_(context, rewritten(made[2], tmp_path / "other.tar", change))
    assert island.unfinished() == []
    assert os.listdir(island.root / "names") == []
    assert os.listdir(island.root / "envs") == []


def test_a_file_that_is_no_tar(made: tuple[Host, Path, Path], island: Host, tmp_path: Path) -> None:
    """Other bytes and a bundle that was cut off are corrupt; a file that is not there is a usage error."""
    context = island.manager().context
    (tmp_path / "noise").write_bytes(b"noise" * 1000)
    (tmp_path / "cut").write_bytes(made[2].read_bytes()[:-12_000])
    for name, error in (("noise", Corrupt), ("cut", Corrupt), ("absent", UsageError)):
        with pytest.raises(error):
            bundles.import_(context, tmp_path / name)


def test_another_lockfile_stays(made: tuple[Host, Path, Path], island: Host) -> None:
    """A name with another lockfile in force keeps it."""
    context = island.manager().context
    bundles.import_(context, made[2])
    (there,) = (island.root / "names").glob("*/lockfile-*.yml")
    text = there.read_text()
    sha256 = re.findall(r"sha256: ([0-9a-f]{64})", text)[-1]
    there.write_text(text.replace(sha256, "ab" * 32))
    with pytest.raises(LockfileMismatch):
        bundles.import_(context, made[2])
    assert "ab" * 32 in there.read_text()


def test_an_archive_that_is_not_here(made: tuple[Host, Path, Path], tmp_path: Path) -> None:
    """Export names what the package cache lacks, and leaves no file."""
    host, _, _ = made
    gone = next((host.root / "pkgs" / "archives").iterdir())
    kept = gone.rename(host.directory / "kept")
    try:
        with pytest.raises(EnvironmentNotFound) as caught:
            bundles.export(host.manager().context, [EnvName(host.names()[0])], tmp_path / "bundle.tar")
    finally:
        kept.rename(gone)
    assert len(caught.value.fields["packages"]) == 1  # type: ignore[arg-type]  # a list
    assert list(tmp_path.iterdir()) == []
