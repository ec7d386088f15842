"""Prefixes, records and links damaged by hand or by another program: who sees it, what is said, and what heals it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from whole_hosts import Host


@pytest.fixture
def spec(host: Host, small_channel: Path) -> Path:
    return host.spec("one", channels=[small_channel.as_uri()])


@pytest.fixture
def record(host: Host, spec: Path) -> dict[str, Any]:
    """An environment that is ready."""
    return host.create(spec)


def findings(host: Host, status: str) -> list[dict[str, Any]]:
    found = json.loads(host.run("doctor", "--json").out)["findings"]
    return [one for one in found if one["status"] == status]


def damages(host: Host, name: str) -> list[dict[str, Any]]:
    answer = host.run("verify", name, "--json")
    assert answer.code == (12 if answer.record["damages"] else 0)
    return list(answer.record["damages"])


@pytest.mark.parametrize("kind", ["same size and time", "other size", "removed"])
def test_damaged_file_is_seen_and_repaired(
    host: Host, spec: Path, record: dict[str, Any], small_channel: Path, kind: str
) -> None:
    """A file changed through one prefix is damaged in all that share it; verify names them; repair heals each."""
    second = host.create(host.spec("two", channels=[small_channel.as_uri()]))
    path = Path(record["prefix"]) / "share/base/data.bin"
    status = path.stat()
    assert status.st_nlink >= 3
    if kind == "removed":
        path.parent.chmod(0o755)
        path.unlink()
    else:
        path.chmod(0o644)
        with path.open("r+b") as file:
            file.write(b"damaged")
            if kind == "other size":
                file.truncate(100)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        path.chmod(0o444)
    (damage,) = damages(host, record["name"])
    assert damage["path"] == str(path)
    shared = [record["name"]] if kind == "removed" else sorted([record["name"], second["name"]])
    assert damage["names"] == shared
    assert host.create(spec)["built"] is False  # ready means published; bytes are verify's business
    for one in (record, second):
        repaired = host.ready("repair", one["name"])
        assert repaired["is_new"]
        assert repaired["lock_digest"] == one["lock_digest"]
        assert damages(host, one["name"]) == []
    third = host.create(host.spec("three", channels=[small_channel.as_uri()]))
    assert damages(host, third["name"]) == []
    host.check_whole()
    assert host.litter() == []


@pytest.mark.parametrize("text", [None, "", "{}", "not JSON", '{"format": 1}', '{"format": 99}', "[]"])
def test_damaged_record(host: Host, spec: Path, record: dict[str, Any], text: str | None) -> None:
    """A record that is gone or damaged is told by doctor, list, verify and create; repair makes a good one."""
    path = host.root / "builds" / record["build_id"] / "record.json"
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    name = record["name"]
    code, error = host.refused("create", spec)
    assert error["code"] in {"corrupt", "store_too_new"}
    assert code == (11 if error["code"] == "store_too_new" else 12)
    if error["code"] == "corrupt":
        assert "repair" in error["hint"]
        (finding,) = findings(host, "error")
        assert finding["check"] == "records"
        assert damages(host, name) != []
        (listed,) = host.ready("list")["environments"]
        assert listed["state"] == "damaged"
    assert host.run("run", name, "--", "true").code == 0
    if error["code"] == "corrupt":
        host.ready("repair", name)
        assert host.create(spec)["built"] is False
        host.check_whole()


def test_missing_lockfile_of_the_build(host: Host, spec: Path, record: dict[str, Any]) -> None:
    """A build whose own lockfile is gone is damaged; repair uses the one in force."""
    (host.root / "builds" / record["build_id"] / "conda-lock.yml").unlink()
    assert damages(host, record["name"]) != []
    host.ready("repair", record["name"])
    assert damages(host, record["name"]) == []
    host.ready("gc")


def test_link_replaced_by_a_directory(host: Host, spec: Path, record: dict[str, Any]) -> None:
    """What conda makes of a name (a directory) is `corrupt`, never used; after quarantine create makes it anew."""
    name = record["name"]
    link = host.root / "envs" / name
    link.unlink()
    (link / "conda-meta").mkdir(parents=True)
    (link / "conda-meta" / "history").write_text("somebody else's\n")
    for words in (("create", spec), ("run", name, "--", "true"), ("remove", name), ("repair", name), ("verify", name)):
        answer = host.run(words[0], "--json", *words[1:])
        assert (answer.code, answer.error["code"]) == (12, "corrupt"), words
    (finding,) = findings(host, "error")
    assert finding["check"] == "envs"
    assert name in finding["message"]
    assert host.run("doctor", "--quarantine").code == 0
    assert not link.exists()
    (kept,) = (host.root / "trash").iterdir()
    assert (kept / "conda-meta" / "history").read_text() == "somebody else's\n"
    again = host.create(spec)
    assert again["built"]
    assert again["lock_digest"] == record["lock_digest"]
    host.ready("gc")
    assert kept.exists()
    host.check_whole()
    assert len(host.builds()) == 1


@pytest.mark.parametrize("target", ["/nonexistent", "../builds/000000000000-1/envs/{name}", "../../elsewhere", "."])
def test_link_that_leads_elsewhere(host: Host, spec: Path, record: dict[str, Any], target: str) -> None:
    """A link that somebody turned elsewhere is not followed, is told by doctor, and can be healed."""
    name = record["name"]
    link = host.root / "envs" / name
    link.unlink()
    link.symlink_to(target.format(name=name))
    code, error = host.refused("create", spec)
    assert (code, error["code"]) == (12, "corrupt")
    assert error["hint"]
    assert findings(host, "error")
    host.run("doctor", "--quarantine")
    if host.run("create", spec).code != 0:
        host.ready("repair", name)
    host.create(spec)
    host.check_whole()
    host.ready("gc")
    assert len(host.builds()) == 1


def test_build_removed_by_hand(host: Host, spec: Path, record: dict[str, Any]) -> None:
    """When somebody deletes a build's directory, its name is `corrupt`, and repair or remove heal it."""
    shutil.rmtree(host.root / "builds" / record["build_id"])
    code, error = host.refused("create", spec)
    assert (code, error["code"]) == (12, "corrupt")
    assert host.run("verify", record["name"]).code == 12
    assert findings(host, "error")
    assert host.ready("repair", record["name"])["lock_digest"] == record["lock_digest"]
    assert host.create(spec)["built"] is False
    host.check_whole()


def test_whole_cache_removed_by_hand(host: Host, spec: Path, record: dict[str, Any], small_channel: Path) -> None:
    """Deleting the package cache harms no environment; the next build fills it again."""
    shutil.rmtree(host.root / "pkgs")
    assert damages(host, record["name"]) == []
    host.create(host.spec("two", channels=[small_channel.as_uri()]))
    host.check_whole()
    assert host.run("doctor").code == 0
