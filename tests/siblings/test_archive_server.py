"""The daemon's archives: what is given to whom, how much of it, and what hostile requests get."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sibling_hosts import CLASS, LIMIT_S, NAME, Channel, Settings, SharingHost, archive

from envmgr.daemon.archives import ArchiveServer
from envmgr.errors import UsageError
from envmgr.store.layout import Layout


@pytest.fixture
def host(tmp_path: Path) -> Iterator[SharingHost]:
    found = SharingHost(tmp_path / "store", Channel())
    yield found
    found.server.stop()


def port_of(host: SharingHost) -> int:
    return int(host.url.rpartition(":")[2])


def get(host: SharingHost, target: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port_of(host), timeout=LIMIT_S)
    with contextlib.closing(connection):
        connection.request(method, target)
        answer = connection.getresponse()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()


def raw(host: SharingHost, *blocks: bytes) -> bytes:
    """Send bytes as they are, and return all that comes back."""
    with socket.create_connection(("127.0.0.1", port_of(host)), timeout=LIMIT_S) as connection:
        with contextlib.suppress(OSError):  # the server may have closed it already
            for block in blocks:
                connection.sendall(block)
            connection.shutdown(socket.SHUT_WR)
        found = b""
        with contextlib.suppress(ConnectionError):
            while block := connection.recv(1 << 16):
                found += block
        return found


def test_an_archive_is_given_by_its_hash(host: SharingHost) -> None:
    """Whole, with its length, also in capital letters; HEAD tells the length only; what is not there is 404."""
    data = archive(1, 700_000)
    sha256 = host.keep(data)
    status, headers, body = get(host, f"/archives/{sha256}?for={NAME}&class={CLASS}")
    assert (status, body, headers["content-length"]) == (200, data, str(len(data)))
    assert get(host, f"/archives/{sha256.upper()}")[2] == data
    status, headers, body = get(host, f"/archives/{sha256}", "HEAD")
    assert (status, body, headers["content-length"]) == (200, b"", str(len(data)))
    assert get(host, f"/archives/{'0' * 64}?for={NAME}")[0] == 404
    assert host.server.given_bytes == 2 * len(data)


def test_what_is_coming_is_said(host: SharingHost) -> None:
    """For an environment that is made here for the same machine class, and for what a builder is fetching now."""
    wanted = f"/archives/{'0' * 64}?for={NAME}"
    assert get(host, wanted)[0] == 404
    host.wanted.add(NAME)
    assert get(host, wanted)[0] == 202
    assert get(host, f"{wanted}&class={CLASS}")[0] == 202
    assert get(host, f"{wanted}&class={CLASS}+cuda12")[0] == 404
    assert get(host, f"/archives/{'0' * 64}?for=env-ffffffffffffffff")[0] == 404
    host.archives.mkdir(parents=True)
    unfinished = host.archives / f".tmp-{'1' * 64}-0123456789ab"
    unfinished.write_bytes(b"12345")
    until = time.monotonic() + LIMIT_S  # what is unfinished is looked up a few times a second
    while get(host, f"/archives/{'1' * 64}")[0] != 202:
        assert time.monotonic() < until
    progress = get(host, f"/archives/{'1' * 64}")[1]["envmgr-progress"]
    unfinished.write_bytes(b"123456789")
    while get(host, f"/archives/{'1' * 64}")[1]["envmgr-progress"] == progress:
        assert time.monotonic() < until
    os.utime(unfinished, (time.time() - 3600, time.time() - 3600))
    while get(host, f"/archives/{'1' * 64}")[0] != 404:
        assert time.monotonic() < until


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET /archives/../../store-id HTTP/1.1",
        b"GET /archives/%2e%2e/%2e%2e/store-id HTTP/1.1",
        b"GET /archives/..%00" + b"0" * 60 + b" HTTP/1.1",
        b"GET //etc/passwd HTTP/1.1",
        b"GET /archives/" + b"g" * 64 + b" HTTP/1.1",
        b"GET /archives/" + b"0" * 63 + b" HTTP/1.1",
        b"GET /archives/" + b"0" * 65 + b" HTTP/1.1",
        b"GET /archives/" + b"0" * 64 + b"/../x HTTP/1.1",
        b"GET /archives/ HTTP/1.1",
        b"GET /archives HTTP/1.1",
        b"GET / HTTP/1.1",
        b"POST /archives/" + b"0" * 64 + b" HTTP/1.1",
        b"DELETE /archives/" + b"0" * 64 + b" HTTP/1.1",
        b"GET /archives/" + b"0" * 64 + b"?" + b"a" * 600 + b" HTTP/1.1",
        b"GET http://elsewhere/archives/" + b"0" * 64 + b" HTTP/1.1",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"",
    ],
)
def test_only_a_hash_is_answered(host: SharingHost, request_line: bytes) -> None:
    """No other path, method or protocol: no listing, no other file, no proxy."""
    host.keep(archive(1))
    assert raw(host, request_line + b"\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "blocks",
    [
        [b"GET /archives/" + b"0" * 64 + b" HTTP/1.1\r\n", b"X: " + b"a" * 100_000],
        [b"GET /archives/" + b"0" * 64 + b" HTTP/1.1\r\n", b"a: b\r\n" * 20_000, b"\r\n"],
        [b"G" * 1_000_000],
        [b"GET /archives/" + b"0" * 64 + b" HTTP/1.1\r\nHost"],
        [b"GET /archives/" + b"0" * 64 + b" HTTP/1.1\r\n\r\nGET /archives/" + b"1" * 64 + b" HTTP/1.1\r\n\r\n"],
    ],
)
def test_what_is_no_single_small_request_is_refused(host: SharingHost, blocks: list[bytes]) -> None:
    """Too much, too little, or two in one: 400 or the end of the connection, and the next one is served."""
    assert raw(host, *blocks)[:13] in {b"HTTP/1.1 400 ", b""}
    assert get(host, f"/archives/{'0' * 64}")[0] == 404


def test_links_and_directories_are_not_given(host: SharingHost, tmp_path: Path) -> None:
    """What stands under a hash and is no file of the store's own is not there."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    host.archives.mkdir(parents=True)
    (host.archives / ("a" * 64)).symlink_to(secret)
    (host.archives / ("b" * 64)).mkdir()
    for digit in "ab":
        assert get(host, f"/archives/{digit * 64}")[0] == 404


def test_so_many_are_given_at_a_time(host: SharingHost) -> None:
    """One more is told to come again; who only asks what is there is answered; a free place is given again."""
    sha256 = host.keep(archive(1, 30_000_000))  # more than fits into the sockets' buffers
    host.settings.archives_connections = 2
    target = f"/archives/{sha256}"
    held = [socket.create_connection(("127.0.0.1", port_of(host)), timeout=LIMIT_S) for _ in range(2)]
    try:
        for connection in held:
            connection.sendall(f"GET {target} HTTP/1.1\r\n\r\n".encode())
            assert connection.recv(12) == b"HTTP/1.1 200"
        status, headers, _ = get(host, target)
        assert (status, headers["retry-after"]) == (503, "1")
        assert get(host, f"/archives/{'0' * 64}")[0] == 404
    finally:
        for connection in held:
            connection.close()
    until = time.monotonic() + LIMIT_S
    while get(host, target, "HEAD")[0] != 200:
        assert time.monotonic() < until


def test_a_flood_of_connections_is_survived(host: SharingHost) -> None:
    """Connections that say nothing are bounded; when they are gone, requests are answered as before."""
    sha256 = host.keep(archive(1))
    host.settings.archives_connections = 1
    with contextlib.ExitStack() as stack:
        silent = []
        for _ in range(400):
            with contextlib.suppress(OSError):
                silent.append(stack.enter_context(socket.create_connection(("127.0.0.1", port_of(host)), timeout=5)))
        silent[-1].settimeout(LIMIT_S)
        assert silent[-1].recv(1) == b""  # closed as it came, long before the time for its request was over
    until = time.monotonic() + LIMIT_S
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if get(host, f"/archives/{sha256}")[0] == 200:
                break
        assert time.monotonic() < until


def test_all_together_have_so_many_bytes_a_second(host: SharingHost) -> None:
    """Two at once take as long as one of twice the size; the setting counts at once when it changes."""
    size_bytes = 300_000
    sha256 = host.keep(archive(1, size_bytes))
    host.settings.archives_bytes_per_s = 1_000_000
    began = time.monotonic()
    threads = [threading.Thread(target=get, args=(host, f"/archives/{sha256}")) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert 0.5 < time.monotonic() - began < 3.0
    host.settings.archives_bytes_per_s = 0
    began = time.monotonic()
    get(host, f"/archives/{sha256}")
    assert time.monotonic() - began < 0.25


def test_its_end_is_the_end_of_all_connections(host: SharingHost) -> None:
    """Those that are in the middle of an archive, too; no thread is left, and stopping twice is no error."""
    sha256 = host.keep(archive(1, 30_000_000))
    with socket.create_connection(("127.0.0.1", port_of(host)), timeout=LIMIT_S) as connection:
        connection.sendall(f"GET /archives/{sha256} HTTP/1.1\r\n\r\n".encode())
        assert connection.recv(12) == b"HTTP/1.1 200"
        host.server.stop()
        host.server.stop()
        with contextlib.suppress(ConnectionError):
            while connection.recv(1 << 20):
                pass
    assert not [thread for thread in threading.enumerate() if thread.name == "archives"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port_of(host)), timeout=1)


def test_an_address_that_cannot_be_had_is_named(host: SharingHost, tmp_path: Path) -> None:
    """Another's port: an error with the setting's name. Where all addresses are listened on, the URL has the host's."""
    taken = Settings(archives_listen=f"127.0.0.1:{port_of(host)}")
    server = ArchiveServer(Layout(tmp_path), lambda: taken, tuple)  # type: ignore[arg-type, return-value]  # as above
    with pytest.raises(UsageError, match="archives") as caught:
        server.start()
    assert caught.value.fields["setting"] == "archives_listen"
    every = ArchiveServer(Layout(tmp_path), lambda: Settings(archives_listen="0.0.0.0:0"), tuple)  # type: ignore[arg-type, return-value]  # as above
    every.start()
    try:
        assert every.url("node-1").startswith("http://node-1:")
    finally:
        every.stop()


def test_a_file_that_is_replaced_meanwhile_is_given_as_it_was(host: SharingHost) -> None:
    """An archive that collection deletes while it is given is given to its end."""
    data = archive(1, 30_000_000)
    sha256 = host.keep(data)
    with socket.create_connection(("127.0.0.1", port_of(host)), timeout=LIMIT_S) as connection:
        connection.sendall(f"GET /archives/{sha256} HTTP/1.1\r\n\r\n".encode())
        head = connection.recv(4096)
        (host.archives / sha256).unlink()
        body = head.partition(b"\r\n\r\n")[2]
        while len(body) < len(data) and (block := connection.recv(1 << 20)):
            body += block
    assert hashlib.sha256(body).hexdigest() == sha256
