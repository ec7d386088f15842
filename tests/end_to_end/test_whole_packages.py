"""Packages and channels that are not what they should be: what the caller is told, and that nothing bad is kept."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from backends.backend_servers import Server, serve
from demo.packages import fabricate, index
from whole_hosts import Host, corrupt, versions

LIB = "noarch/lib-1.0-0.conda"
LONGEST_S = 30.0
"""What no refusal may take, with the short limits that these tests set."""


def swap(path: Path) -> None:
    """Put another, whole package in the place of one."""
    shutil.copy(path.with_name("app-1.0-0.conda"), path)


DAMAGES = [corrupt, swap]


@pytest.fixture
def server(channel: Path) -> Iterator[Server]:
    with serve(channel) as found:
        yield found


@pytest.fixture
def quick(host: Host) -> Host:
    """A host that gives up soon."""
    host.set(timeout_s=1.5, max_retries=1)
    return host


def url_of(scheme: str, channel: Path, server: Server) -> str:
    return channel.as_uri() if scheme == "file" else server.url


def check_nothing_kept(host: Host) -> None:
    assert host.builds() == []
    assert host.litter() == []


@pytest.mark.parametrize("scheme", ["file", "http"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_package_cold_and_on_the_retry(
    quick: Host, channel: Path, server: Server, scheme: str, damage: Callable[[Path], None]
) -> None:
    """A package that does not match the index is `corrupt`, by name, each time; once the channel is right, all is."""
    spec = quick.spec("app", channels=[url_of(scheme, channel, server)])
    good = (channel / LIB).read_bytes()
    damage(channel / LIB)
    for _ in range(3):
        code, error = quick.refused("create", spec)
        assert (code, error["code"]) == (12, "corrupt")
        assert error["fields"]["package"] == "lib"
        assert "lib 1.0" in error["message"]
        check_nothing_kept(quick)
    (channel / LIB).write_bytes(good)
    assert versions(quick.create(spec)) == {"app": "1.0", "lib": "1.0"}
    assert quick.unfinished() == []
    quick.check_whole()


@pytest.mark.parametrize("scheme", ["file", "http"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_package_with_a_warm_cache(
    quick: Host, channel: Path, server: Server, scheme: str, damage: Callable[[Path], None]
) -> None:
    """What was verified once is used; a cached archive that was damaged since is not believed."""
    url = url_of(scheme, channel, server)
    quick.create(quick.spec("lib", channels=[url]))
    good = (channel / LIB).read_bytes()
    damage(channel / LIB)
    spec = quick.spec("app", channels=[url])
    quick.create(spec)
    quick.check_whole()
    # The unpacked package is gone and the cached archive is damaged, too: nothing good is left anywhere.
    for path in (quick.root / "pkgs" / "unpacked").iterdir():
        path.unlink() if path.is_file() else shutil.rmtree(path)
    for path in (quick.root / "pkgs" / "archives").iterdir():
        path.chmod(0o644)
        corrupt(path)
    third = quick.spec("app", "lib =1.0", channels=[url])
    code, error = quick.refused("create", third)
    assert (code, error["code"], error["fields"]["package"]) == (12, "corrupt", "lib")
    (channel / LIB).write_bytes(good)
    quick.create(third)
    quick.check_whole()


def test_swapped_package_under_a_lockfile(quick: Host, channel: Path) -> None:
    """A channel that replaces a package and its index does not change what a lockfile installs: it is refused."""
    spec = quick.spec("app", channels=[channel.as_uri()])
    quick.ready("lock", spec)
    fabricate(channel, "lib", "1.0", files={"share/lib/other.txt": "another lib of the same version\n"})
    index(channel)
    code, error = quick.refused("create", spec)
    assert (code, error["code"], error["fields"]["package"]) == (12, "corrupt", "lib")
    assert "relock" in error["hint"]
    quick.ready("remove", spec, "--forget")
    record = quick.create(spec)
    assert (Path(record["prefix"]) / "share/lib/other.txt").exists()


def test_bytes_spoilt_once_on_the_way(quick: Host, server: Server) -> None:
    """What a line or a proxy spoils once comes right by asking again, without a word to the caller."""
    spoilt: list[str] = []

    def spoil(path: str, data: bytes) -> bytes:
        if "lib-1.0" in path and not spoilt:
            spoilt.append(path)
            return data[:-1] + b"?"
        return data

    server.behaviour.change = spoil
    quick.create(quick.spec("app", channels=[server.url]))
    assert spoilt
    assert len(server.asked_for("lib-1.0-0.conda")) == 2
    quick.check_whole()


def test_download_that_breaks_off(quick: Host, server: Server) -> None:
    """A download that breaks off is tried again; one that always does is `network`, transient, and leaves nothing."""
    server.behaviour.truncate = {"lib-1.0": 1}
    quick.create(quick.spec("app", channels=[server.url]))
    other = Host(quick.directory / "other", quick.settings)
    server.behaviour.truncate = {"lib-1.0": 1000}
    began = time.monotonic()
    code, error = other.refused("create", other.spec("app", channels=[server.url]))
    assert (code, error["code"], error["is_transient"]) == (5, "network", True)
    assert "lib-1.0-0.conda" in error["message"]
    assert time.monotonic() - began < LONGEST_S
    check_nothing_kept(other)


@pytest.mark.parametrize("part", ["repodata", ".conda"])
def test_server_that_stops_talking(quick: Host, server: Server, part: str) -> None:
    """A server that falls silent costs the set time-out, not for ever; the error says how long was waited."""
    server.behaviour.stall = part
    quick.set(max_retries=0)
    began = time.monotonic()
    code, error = quick.refused("create", quick.spec("app", channels=[server.url]))
    took_s = time.monotonic() - began
    assert (code, error["code"], error["is_transient"]) == (5, "network", True)
    assert took_s < LONGEST_S
    check_nothing_kept(quick)
    server.behaviour.stall = None
    server.behaviour.release.set()
    quick.create(quick.spec("app", channels=[server.url]))


@pytest.mark.parametrize(
    ("status", "code"), [(401, "channel"), (403, "channel"), (404, "channel"), (500, "network"), (503, "network")]
)
@pytest.mark.parametrize("part", ["repodata", "lib-1.0"])
def test_refusals_of_a_server(quick: Host, server: Server, part: str, status: int, code: str) -> None:
    """An answer that refuses is told with its number and URL; what may pass is transient; later all works."""
    server.behaviour.statuses = {part: [status]}
    spec = quick.spec("app", channels=[server.url])
    began = time.monotonic()
    exit_code, error = quick.refused("create", spec)
    assert (exit_code, error["code"]) == (5, code), error
    assert error["is_transient"] is (code == "network")
    assert str(status) in error["message"]
    assert server.url in error["message"]
    assert time.monotonic() - began < LONGEST_S
    check_nothing_kept(quick)
    server.behaviour.statuses = {}
    quick.create(spec)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/none", "file:///nonexistent/channel"])
def test_channel_that_is_not_there(quick: Host, url: str) -> None:
    """A channel that is nowhere is an error about that channel, with exit code 5."""
    code, error = quick.refused("create", quick.spec("app", channels=[url]))
    assert (code, error["code"]) in {(5, "channel"), (5, "network")}
    assert url.rpartition("/")[2] in error["message"] or "127.0.0.1:9" in error["message"]
    check_nothing_kept(quick)


def test_unsatisfiable_is_readable(quick: Host, channel: Path) -> None:
    """What cannot be met is told in the solver's words, which name both sides, and is remembered for a while."""
    fabricate(channel, "needy", "1.0", depends=["lib >=7"])
    index(channel)
    spec = quick.spec("needy", "app", channels=[channel.as_uri()])
    code, error = quick.refused("create", spec)
    assert (code, error["code"]) == (4, "unsatisfiable")
    assert "needy" in error["message"]
    assert "lib >=7" in error["message"]
    assert "\x1b" not in error["message"]
    check_nothing_kept(quick)
    fabricate(channel, "lib", "7.0")
    index(channel)
    assert "--retry" in quick.refused("create", spec)[1]["hint"]
    assert quick.run("create", spec, "--retry").code == 0
    assert "lib >=7" not in quick.run("logs", spec).err


def test_post_link_scripts_are_told(quick: Host, channel: Path) -> None:
    """A link script that was not run is visible in the record of create, and in show."""
    script = '#!/bin/sh\ntouch "$PREFIX/ran"\n'
    fabricate(channel, "scripted", "1.0", files={"bin/.scripted-post-link.sh": script})
    index(channel)
    spec = quick.spec("scripted", channels=[channel.as_uri()])
    record = quick.create(spec)
    assert record["skipped_link_scripts"] == ["scripted"]
    assert not Path(record["prefix"], "ran").exists()
    assert quick.ready("show", record["name"])["skipped_link_scripts"] == ["scripted"]
    quick.ready("remove", record["name"])
    quick.set(allow_link_scripts=["scripted"])
    allowed = quick.create(spec)
    assert allowed["skipped_link_scripts"] == []
    assert Path(allowed["prefix"], "ran").exists()


BAD_DOCUMENTS = {
    "dependencies:\n  - pandas=>=1.0\n": (3, "invalid_spec"),
    "dependencies:\n\t- tabbed\n": (3, "invalid_spec"),
    "dependencies: &a [*a]\n": (3, "invalid_spec"),
    "dependancies:\n  - numpy\n": (3, "invalid_spec"),
    "dependencies:\n  - pip:\n    - ./local\n": (3, "invalid_spec"),
    "dependencies:\n  - 'lib 1.0 0 too many words'\n": (3, "invalid_spec"),
    "": (3, "invalid_spec"),
    "[1, 2]\n": (3, "invalid_spec"),
    "\x00": (3, "invalid_spec"),
}


@pytest.mark.parametrize("text", BAD_DOCUMENTS)
def test_malformed_documents(host: Host, text: str) -> None:
    """A document that is none is refused with exit code 3 and its problems, and no store is made for it."""
    expected = BAD_DOCUMENTS[text]
    code, error = host.refused("create", host.write(text))
    assert (code, error["code"]) == expected
    assert error["fields"]["problems"] or error["message"]
    assert not (host.root / "builds").exists()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("create", "../up"), 3),
        (("create", "bare-word"), 2),
        (("remove", ".."), 2),
        (("remove", "a b"), 2),
        (("show", "env-0000000000000000"), 6),
        (("remove", "env-0000000000000000"), 6),
        (("run", "nobody", "--", "true"), 6),
        (("alias", "set", "env-0000000000000000", "x"), 2),
        (("create", "/nonexistent.yml"), 3),
        (("create", "environment.yml", "--timeout", "soon"), 2),
        (("relock", "env-0000000000000000", "--exclude-newer", "soon"), 2),
        (("create", "environment.yml", "--lockfile", "/nonexistent"), 2),
        (("no-such-command",), 2),
    ],
)
def test_bad_words(host: Host, words: tuple[str, ...], code: int) -> None:
    """Words that make no sense have the exit code of their kind, one JSON record, and no traceback."""
    host.write("dependencies: [lib]\n")
    answer = host.run(words[0], "--json", *words[1:]) if words[0] != "alias" else host.run(*words, "--json")
    assert answer.code == code, answer.out + answer.err
    assert set(json.loads(answer.out)["error"]) == {"code", "message", "hint", "is_transient", "fields"}
    assert "Traceback" not in answer.err
