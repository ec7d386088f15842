"""Channels and archives over real HTTP: authentication, mirrors, proxies, TLS, and servers that fail."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from backend_hosts import Host
from backend_servers import make_certificates, proxy, serve
from demo.packages import fabricate, index

from envmgr.errors import ChannelError, NetworkError, Offline, Unsatisfiable
from envmgr.wire.pipe import Channel

pytestmark = pytest.mark.slow  # each test is a few builds; test_builds.py has those that scripts/check runs

USER = ("reader", "hush-hush")
HOST = "127.0.0.1"


def test_http_is_as_good_as_a_directory(host: Host, channel: Path) -> None:
    """The same channel over HTTP: packages arrive, each asked for once; a second build asks for no archive."""
    with serve(channel) as server:
        built = host.build(server.url, conda=("app", "tool"))
        assert built.result is not None
        assert built.result.downloaded_bytes > 0
        for archive in ("app-1.0-0.conda", "lib-2.0-0.conda", "tool-1.0-0.conda"):
            assert len(server.asked_for(archive)) == 1
        again = host.build(server.url, conda=("app", "tool"))
        assert again.result is not None
        assert again.result.downloaded_bytes == 0
        assert len(server.asked_for(".conda")) == 3
    bytes_told = [event for event in built.events if event.kind == "progress" and event.phase == "fetch"]
    assert bytes_told[-1].done == built.result.downloaded_bytes == bytes_told[-1].total
    record = json.loads((built.prefix / "conda-meta/tool-1.0-0.json").read_text())
    assert record["url"] == f"{server.url}/noarch/tool-1.0-0.conda"


def test_a_channel_that_changed_is_seen_at_once(host: Host, tmp_path: Path) -> None:
    """The index is asked for at each solve: what was published a moment ago is found, whatever the cache holds."""
    directory = tmp_path / "chan"
    fabricate(directory, "lib", "1.0")
    index(directory)
    with serve(directory) as server:
        host.build(server.url, conda=("lib",))
        fabricate(directory, "lib", "2.0")
        index(directory)
        built = host.build(server.url, conda=("lib",))
    assert (built.prefix / "conda-meta/lib-2.0-0.json").exists()


@pytest.mark.parametrize("way", ["netrc", "auth_file", "url"])
def test_credentials_from_the_site(host: Host, channel: Path, tmp_path: Path, way: str) -> None:
    """netrc, rattler's file and a URL of the settings open the door; nothing that is written holds any of it."""
    with serve(channel) as server:
        server.behaviour.user = USER
        changes: dict[str, str] = {}
        url = server.url
        if way == "netrc":
            changes["netrc_file"] = str(tmp_path / "netrc")
            (tmp_path / "netrc").write_text(f"machine {HOST}\nlogin {USER[0]}\npassword {USER[1]}\n")
        elif way == "auth_file":
            changes["auth_file"] = str(tmp_path / "auth.json")
            entry = {HOST: {"BasicHTTP": {"username": USER[0], "password": USER[1]}}}
            (tmp_path / "auth.json").write_text(json.dumps(entry))
        else:
            url = server.url.replace("://", f"://{USER[0]}:{USER[1]}@")
        built = host.build(url, conda=("tool",), **changes)
        again = host.build(url, conda=("tool",), lockfile=built.locked[0], **changes)
        lacking = host.request(Channel("closed", (server.url,)), conda=("tool",))
        with pytest.raises(ChannelError, match="401") as caught:
            host.run(lacking)
        assert caught.value.code == "channel"
        assert "netrc_file" in str(caught.value.hint)
    written = [path for path in host.root.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(written) > 10
    for path in written:
        assert USER[1].encode() not in path.read_bytes(), path
    for one in (built, again):
        assert USER[1] not in repr(one.events)
        assert USER[1] not in one.locked[0]


def test_a_lockfiles_archives_get_the_channels_credentials(host: Host, channel: Path) -> None:
    """A lockfile has no credentials; a cold cache still gets its archives, with those of the request's channels."""
    with serve(channel) as server:
        text = host.build(server.url, conda=("tool",), action="lock").locked[0]
        server.behaviour.user = USER
        url = server.url.replace("://", f"://{USER[0]}:{USER[1]}@")
        host.build(url, conda=("tool",), lockfile=text)
        with pytest.raises(ChannelError, match="401"):
            Host(host.root / "other").build(server.url, conda=("tool",), lockfile=text)


def test_a_token_in_a_channels_url(host: Host, channel: Path, tmp_path: Path) -> None:
    """``/t/<token>/`` in a URL of the settings is sent, and written nowhere."""
    guarded = tmp_path / "guarded" / "t" / "tk-hush"
    guarded.mkdir(parents=True)
    (guarded / "main").symlink_to(channel)
    with serve(tmp_path / "guarded") as server:
        built = host.build(f"{server.url}/t/tk-hush/main", conda=("tool",))
        assert server.asked_for(".conda") == ["/t/tk-hush/main/noarch/tool-1.0-0.conda"]
    assert "tk-hush" not in built.locked[0] + built.log + repr(built.events)
    for path in (path for path in host.root.rglob("*") if path.is_file()):
        assert b"tk-hush" not in path.read_bytes(), path


@pytest.mark.parametrize("status", [500, 404])
def test_mirrors_stand_in_for_each_other(host: Host, channel: Path, tmp_path: Path, status: int) -> None:
    """The first mirror fails for every archive, the second has them; records keep the channel's own URL."""
    with serve(channel) as bad, serve(channel) as good:
        bad.behaviour.statuses = {".conda": [status]}
        mirrors = (("http://packages.invalid/main", (bad.url, good.url)),)
        channels = Channel("main", ("http://packages.invalid/main",))
        built = host.build(channels, conda=("tool",), mirrors=mirrors)
        assert len(bad.asked_for(".conda")) == 1
        assert len(good.asked_for(".conda")) == 1
    record = json.loads((built.prefix / "conda-meta/tool-1.0-0.json").read_text())
    assert record["url"] == "http://packages.invalid/main/noarch/tool-1.0-0.conda"
    assert bad.url not in built.locked[0]


def test_a_mirror_with_wrong_bytes_is_not_the_only_one_asked(host: Host, channel: Path) -> None:
    """What the first mirror serves has another hash: the next one is asked, each of them once."""
    with serve(channel) as bad, serve(channel) as good:
        bad.behaviour.change = lambda path, data: data[::-1] if path.endswith(".conda") else data
        mirrors = (("http://packages.invalid/main", (bad.url, good.url)),)
        host.build(Channel("main", ("http://packages.invalid/main",)), conda=("tool",), mirrors=mirrors)
        assert (len(bad.asked_for(".conda")), len(good.asked_for(".conda"))) == (1, 1)


def test_a_damaged_archive_is_not_fetched_offline(host: Host, channel: Path) -> None:
    """Offline, an archive that is there but damaged is named, and its server is not asked."""
    with serve(channel) as server:
        text = host.build(server.url, conda=("tool",)).locked[0]
        (archive,) = (host.packages / "archives").iterdir()
        archive.write_bytes(b"damaged")
        for entry in (host.packages / "unpacked").glob("*.ok"):
            entry.unlink()
        seen = len(server.requests)
        with pytest.raises(Offline, match="tool would have to be downloaded"):
            host.build(server.url, conda=("tool",), lockfile=text, is_offline=True)
        assert len(server.requests) == seen


def test_an_index_comes_from_the_mirror_that_works(host: Host, channel: Path) -> None:
    """A mirror in trouble does not hinder the solve when there is another."""
    with serve(channel) as bad, serve(channel) as good:
        bad.behaviour.statuses = {"": [503]}
        mirrors = (("http://packages.invalid/main", (bad.url, good.url)),)
        host.build(Channel("main", ("http://packages.invalid/main",)), conda=("tool",), mirrors=mirrors)


def test_everything_goes_through_the_proxy(host: Host, channel: Path) -> None:
    """Index and archives are asked for at the proxy; hosts that are excepted are not."""
    with serve(channel) as server, proxy() as gate:
        host.build(server.url, conda=("tool",), proxies=(("http", gate.url), ("https", gate.url)))
        assert {path.rpartition(".")[2] for path in gate.requests} >= {"conda"}
        assert any("repodata" in path for path in gate.requests)
        seen = len(gate.requests)
        other = Host(host.root / "other")
        other.build(server.url, conda=("tool",), proxies=(("http", gate.url), ("no", f"localhost,{HOST}")))
        assert len(gate.requests) == seen


def test_a_private_authority(host: Host, channel: Path, tmp_path: Path) -> None:
    """With ca_file the server is trusted, also through a proxy's tunnel; without it, only verify_tls=False lets it."""
    ca, certificate = make_certificates(tmp_path)
    with serve(channel, tls=certificate) as server, proxy() as gate:
        host.build(server.url, conda=("tool",), ca_file=str(ca), proxies=(("https", gate.url),))
        assert set(gate.requests) == {server.url.removeprefix("https://")}
        with pytest.raises(ChannelError):
            Host(host.root / "other").build(server.url, conda=("tool",), max_retries=0)
        Host(host.root / "third").build(server.url, conda=("tool",), verify_tls=False)


def test_offline(host: Host, channel: Path) -> None:
    """Offline, what is in the cache is enough, for the solve and for the packages; what is not is named."""
    with serve(channel) as server:
        host.build(server.url, conda=("app",))
        seen = len(server.requests)
        host.build(server.url, conda=("app",), is_offline=True)
        assert len(server.requests) == seen
        with pytest.raises(Offline, match="tool"):
            host.build(server.url, conda=("tool",), is_offline=True)
        text = host.build(server.url, conda=("tool",), action="lock").locked[0]
        with pytest.raises(Offline, match="tool would have to be downloaded"):
            host.build(server.url, conda=("tool",), lockfile=text, is_offline=True)
        with pytest.raises(Offline):
            Host(host.root / "other").build(server.url, conda=("app",), is_offline=True)
    host.build(channel.as_uri(), conda=("tool",), is_offline=True)  # a directory is not a network


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [(401, ChannelError, "channel"), (403, ChannelError, "channel"), (404, ChannelError, "channel"),
     (500, NetworkError, "network"), (503, NetworkError, "network"), (429, NetworkError, "network")],
)  # fmt: skip
def test_what_a_server_refuses_with(host: Host, channel: Path, status: int, kind: type, code: str) -> None:
    """For the index and for an archive: the error says which, with the status, and whether trying again may help."""
    with serve(channel) as server:
        text = host.build(server.url, conda=("tool",), action="lock").locked[0]
        server.behaviour.statuses = {"": [status]}
        with pytest.raises(kind) as caught:
            Host(host.root / "cold").build(server.url, conda=("tool",), max_retries=1)
        assert caught.value.code == code
        with pytest.raises(kind, match=str(status)) as caught:
            host.build(server.url, conda=("tool",), lockfile=text, max_retries=1)
        assert caught.value.code == code
        assert "tool-1.0-0.conda" in caught.value.message
        assert list((host.packages / "archives").iterdir()) == []


def test_a_channel_that_is_not_there(host: Host, tmp_path: Path) -> None:
    """Nobody listens, no such host, no such directory: the first two are transient, the last is not."""
    with pytest.raises(NetworkError, match=r"127\.0\.0\.1:9"):
        host.build("http://127.0.0.1:9/chan", conda=("tool",), max_retries=0)
    with pytest.raises(NetworkError, match=r"nowhere\.invalid"):
        host.build("http://nowhere.invalid/chan", conda=("tool",), max_retries=0)
    with pytest.raises(ChannelError, match="none") as caught:
        host.build((tmp_path / "none").as_uri(), conda=("tool",))
    assert caught.value.code == "channel"


def test_an_index_that_is_not_one(host: Host, tmp_path: Path) -> None:
    """A broken repodata.json is the channel's fault, and is said to be."""
    (tmp_path / "chan" / "noarch").mkdir(parents=True)
    (tmp_path / "chan" / "noarch" / "repodata.json").write_text('{"packages": [')
    with pytest.raises(ChannelError, match="repodata"):
        host.build((tmp_path / "chan").as_uri(), conda=("tool",))


def test_trouble_that_passes_is_waited_out(host: Host, channel: Path) -> None:
    """A 500, a break in the middle, and the build works all the same."""
    with serve(channel) as server:
        server.behaviour.statuses = {"tool-1.0": [500, 0]}
        server.behaviour.truncate = {"tool-1.0": 1}
        host.build(server.url, conda=("tool",))
        assert len(server.asked_for("tool-1.0-0.conda")) == 3


def test_a_server_that_stalls(host: Host, channel: Path) -> None:
    """Nothing arrives for the timeout, in the index or in an archive: an error that says so, while the stall lasts."""
    with serve(channel) as server:
        text = host.build(server.url, conda=("tool",), action="lock").locked[0]
        server.behaviour.stall = "repodata"
        with pytest.raises(NetworkError, match="nothing arrived for 1 s"):
            Host(host.root / "cold").build(server.url, conda=("tool",), max_retries=0, timeout_s=1.0)
        server.behaviour.stall = "tool-1.0"
        with pytest.raises(NetworkError, match=r"nothing arrived for 1 s, after \d+ bytes"):
            host.build(server.url, conda=("tool",), lockfile=text, max_retries=0, timeout_s=1.0)


def test_a_slow_server_is_no_stalled_server(host: Host, tmp_path: Path) -> None:
    """The timeout is for silence, not for the whole: a download that takes longer succeeds."""
    directory = tmp_path / "chan"
    fabricate(directory, "big", "1.0", files={"share/big": os.urandom(20_000)})
    index(directory)
    with serve(directory) as server:
        server.behaviour.chunk_pause_s = 0.15
        began = time.monotonic()
        host.build(server.url, conda=("big",), timeout_s=2.0, max_retries=0)
        assert time.monotonic() - began > 2


def test_an_unknown_package_is_unsatisfiable_not_missing(host: Host, channel: Path) -> None:
    """A channel that answers but lacks a package is no network error."""
    with serve(channel) as server, pytest.raises(Unsatisfiable, match="nonexistent"):
        host.build(server.url, conda=("nonexistent",))
