"""Lockfiles from end to end: read by conda-lock itself, given, refused, kept, forgotten, solved again."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from demo.packages import fabricate, index
from whole_hosts import Host, versions, write_wheel

CONDA_LOCK = Path(sys.executable).with_name("conda-lock")


@pytest.fixture
def spec(host: Host, channel: Path) -> Path:
    return host.spec("app", channels=[channel.as_uri()])


def grow(channel: Path) -> None:
    """Let the channel have a newer ``lib``."""
    fabricate(channel, "lib", "2.0")
    index(channel)


def date(channel: Path, years: dict[str, int]) -> None:
    """Let the index say that packages were published in these years, instead of just now."""
    path = channel / "noarch" / "repodata.json"
    document = json.loads(path.read_text())
    for name, entry in document["packages.conda"].items():
        year = years[name.rpartition("-")[0]]
        stamp = int(dt.datetime(year, 1, 1, tzinfo=dt.timezone.utc).timestamp() * 1000)
        entry |= {"timestamp": stamp, "indexed_timestamp": stamp}
    for derived in ("repodata.json.zst", "repodata_shards.msgpack.zst"):
        (path.parent / derived).unlink()
    shutil.rmtree(path.parent / "shards")
    path.write_text(json.dumps(document))


def rendered(lock: Path, directory: Path) -> list[str]:
    """Return the URLs of the explicit file that the real conda-lock renders."""
    command = [CONDA_LOCK, "render", "-k", "explicit", "-p", "linux-64", lock]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = (directory / "conda-linux-64.lock").read_text().splitlines()
    assert "@EXPLICIT" in lines
    return [line for line in lines if "://" in line and not line.startswith("#")]


def test_conda_lock_renders_what_create_wrote(host: Host, spec: Path, tmp_path: Path) -> None:
    """The real conda-lock renders the lockfile of a build as the list of its packages, each with its md5."""
    record = host.create(spec)
    urls = rendered(host.root / "builds" / record["build_id"] / "conda-lock.yml", tmp_path)
    assert sorted(url.rpartition("/")[2].partition("#")[0] for url in urls) == ["app-1.0-0.conda", "lib-1.0-0.conda"]
    assert all(len(url.partition("#")[2]) == 32 for url in urls)


def test_conda_lock_renders_a_pip_section(python_host: Host, tmp_path: Path) -> None:
    """A lockfile with pip packages, too, is read and rendered by the real conda-lock."""
    wheel = write_wheel(tmp_path / "files", "omega", "1.0")
    spec = python_host.spec("python", pip=["--no-index", f"--find-links {wheel.parent}", "omega"])
    answer = python_host.run("lock", spec, "-o", tmp_path / "conda-lock.yml")
    assert answer.code in {0, 3}, answer.err
    if answer.code == 3:  # a path is not in the text; the setting says where
        python_host.set(no_index=True, find_links=[str(wheel.parent)])
        spec = python_host.spec("python", pip=["omega"])
        answer = python_host.run("lock", spec, "-o", tmp_path / "conda-lock.yml")
        python_host.settings.pop("no_index")
        python_host.settings.pop("find_links")
        python_host.set()
        assert answer.code == 0, answer.err
    assert any("python-3" in url for url in rendered(tmp_path / "conda-lock.yml", tmp_path))
    assert "omega" in (tmp_path / "conda-lock.yml").read_text()
    assert python_host.litter() == []


def test_lock_then_create(host: Host, spec: Path, channel: Path, tmp_path: Path) -> None:
    """``lock`` builds nothing, writes what ``create`` then installs, and says the same again."""
    out = tmp_path / "out.yml"
    locked = host.ready("lock", spec, "-o", out)
    assert host.names() == []
    assert host.litter() == []
    grow(channel)
    assert host.run("lock", spec).out == out.read_text()
    record = host.create(spec)
    assert record["lock_digest"] == locked["lock_digest"]
    assert versions(record) == {"app": "1.0", "lib": "1.0"}


def test_create_with_a_lockfile(host: Host, spec: Path, channel: Path, tmp_path: Path) -> None:
    """A given lockfile is built exactly; an equal one is accepted later, a different one is refused with 14."""
    old, new = tmp_path / "old.yml", tmp_path / "new.yml"
    host.ready("lock", spec, "-o", old)
    host.ready("remove", spec, "--forget")
    grow(channel)
    host.ready("lock", spec, "-o", new)
    host.ready("remove", spec, "--forget")
    record = host.create(spec, "--lockfile", old)
    assert versions(record)["lib"] == "1.0"
    assert host.create(spec, "--lockfile", old)["built"] is False
    code, error = host.refused("create", spec, "--lockfile", new)
    assert (code, error["code"]) == (14, "lockfile_mismatch")
    host.ready("remove", spec)
    code, error = host.refused("create", spec, "--lockfile", new)
    assert (code, error["code"]) == (14, "lockfile_mismatch")
    host.ready("remove", spec, "--forget")
    assert versions(host.create(spec, "--lockfile", new))["lib"] == "2.0"


def test_lockfile_that_does_not_satisfy_the_spec(host: Host, spec: Path, channel: Path, tmp_path: Path) -> None:
    """A lockfile of another spec, or one of too old versions, is refused with 14; one that is none with 3."""
    old = tmp_path / "old.yml"
    host.ready("lock", spec, "-o", old)
    grow(channel)
    wants = host.spec("app", "lib >=2", channels=[channel.as_uri()])
    more = host.spec("app", "other", channels=[channel.as_uri()])
    for one in (wants, more):
        code, error = host.refused("create", one, "--lockfile", old)
        assert (code, error["code"]) == (14, "lockfile_mismatch"), error
    code, error = host.refused("create", spec, "--lockfile", host.write("no: lockfile\n", "none.yml"))
    assert code in {3, 14}
    assert host.names() == []
    assert host.litter() == []


def test_a_spec_that_is_a_lockfile(host: Host, spec: Path, channel: Path, tmp_path: Path) -> None:
    """A conda-lock.yml is a spec of its own name, built as it stands, on another host too, whatever the channel has."""
    out = tmp_path / "conda-lock.yml"
    host.ready("lock", spec, "-o", out)
    grow(channel)
    other = Host(tmp_path / "other", {"default_channels": []})
    record = other.create(out)
    assert versions(record) == {"app": "1.0", "lib": "1.0"}
    assert record["name"] != host.run("name", spec).out.strip()
    assert record["name"] == host.run("name", out).out.strip()
    other.check_whole()
    other.ready("remove", out)
    assert other.create(out)["lock_digest"] == record["lock_digest"]


def test_remove_keeps_the_lockfile_unless_forgotten(host: Host, spec: Path, channel: Path) -> None:
    """Created again, the environment has the old packages though the channel has newer ones; forgotten, the new."""
    host.create(spec)
    host.ready("remove", spec)
    grow(channel)
    assert versions(host.create(spec))["lib"] == "1.0"
    host.ready("remove", spec, "--forget")
    assert versions(host.create(spec))["lib"] == "2.0"


def test_relock(host: Host, spec: Path, channel: Path) -> None:
    """``relock`` takes what is newer, up to a date if one is given, and is in force from then on."""
    first = host.create(spec)
    assert host.ready("relock", first["name"])["is_new"] is False
    grow(channel)
    fabricate(channel, "lib", "3.0")
    index(channel)
    date(channel, {"app-1.0": 2020, "lib-1.0": 2020, "lib-2.0": 2022, "lib-3.0": 2024})
    between = host.ready("relock", first["name"], "--exclude-newer", "2023-01-01")
    assert between["is_new"]
    assert versions(between)["lib"] == "2.0"
    newest = host.ready("relock", first["name"])
    assert versions(newest)["lib"] == "3.0"
    host.ready("remove", first["name"])
    assert host.create(spec)["lock_digest"] == newest["lock_digest"]
    assert len(host.builds()) == 1
    host.check_whole()


def test_relock_that_fails_changes_nothing(host: Host, spec: Path, channel: Path) -> None:
    """When no solution is found or a package is damaged, the old environment and lockfile stay."""
    first = host.create(spec)
    code, error = host.refused("relock", first["name"], "--exclude-newer", "1990-01-01")
    assert (code, error["code"]) == (4, "unsatisfiable")
    grow(channel)
    (channel / "noarch" / "lib-2.0-0.conda").write_bytes(b"PK nothing")
    code, error = host.refused("relock", first["name"])
    assert (code, error["code"]) == (12, "corrupt")
    assert host.create(spec)["lock_digest"] == first["lock_digest"]
    assert host.create(spec)["built"] is False
    host.check_whole()
    assert host.litter() == []
