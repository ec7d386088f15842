"""How bytes come from channels: one configuration for repodata and archives, made from `envmgr.wire.pipe.Network`.

rattler's client does the HTTP: TLS, proxies, authentication. It looks into the environment of its process for three
things that its configuration cannot say; `arm` sets them, in the builder's own environment: the authorities
(``SSL_CERT_FILE``), netrc (``NETRC``) and rattler's authentication file (``RATTLER_AUTH_FILE``; given in the
configuration instead, it would switch netrc off).

Its time limit is for a whole request, which forbids large packages on slow lines. So none is set, and two watches of
ours stand for it: `Http.fetch` sees every byte of an archive; `unless_stalled` counts the bytes that arrived on all
sockets of the process, and its CPU time, while repodata is fetched inside rattler and the solver thinks.

For archives, mirrors and retries are ours, too: rattler gives up at a mirror's 404, and does not retry an answer that
broke off in the middle. Order: the mirrors of the longest matching prefix, in their order, once each; then again, after
a pause that grows. A mirror that refuses (4xx) is not asked again.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import socket
import stat
import struct
import time
from collections.abc import Awaitable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

from rattler import Client, Config
from rattler.package_streaming import download_and_extract, download_to_writer

from envmgr.backends.rattler.errors import of_answer, translate
from envmgr.errors import ChannelError, EnvmgrError, NetworkError, UsageError
from envmgr.settings.redact import redact

if TYPE_CHECKING:
    from envmgr.backends.transfers import Sink
    from envmgr.wire.pipe import Network

T = TypeVar("T")

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 15.0
_LOOK_S = 0.1
_BLOCK_BYTES = 1 << 20
_BUSY_SHARE = 0.1
_TOKEN = re.compile(r"/t/([^/]+)/")
_TCP_INFO_RECEIVED = struct.Struct("128xQ")  # struct tcp_info, tcpi_bytes_received (Linux 4.1)


def arm(network: Network, channel_urls: Iterable[str] = ()) -> None:
    """Set in this process's environment what rattler reads from there; once, before the first client is made.

    Credentials in `channel_urls` become entries of the authentication file, for their host: rattler would keep those of
    a URL in its cache of indexes. Give it URLs without them.
    """
    auth_file = network.auth_file
    if entries := dict(filter(None, map(_credentials, channel_urls))):
        auth_file = _in_memory({**_read_auth_file(auth_file), **entries})
    for variable, value in (
        ("SSL_CERT_FILE", network.ca_file),
        ("NETRC", network.netrc_file),
        ("RATTLER_AUTH_FILE", auth_file),
    ):
        if value is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = value


def _credentials(url: str) -> tuple[str, object] | None:
    parts = urlsplit(url)
    if parts.hostname is None:
        return None
    if parts.username is not None:
        login = {"username": unquote(parts.username), "password": unquote(parts.password or "")}
        return parts.hostname, {"BasicHTTP": login}
    token = _TOKEN.match(parts.path)
    return (parts.hostname, {"CondaToken": token.group(1)}) if token else None


def _read_auth_file(path: str | None) -> dict[str, object]:
    if path is None:
        return {}
    try:
        document = json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"the authentication file {path} cannot be read: {error}", hint="setting auth_file") from error
    if not isinstance(document, dict):
        raise UsageError(f"the authentication file {path} is not a JSON object", hint="setting auth_file")
    return document


def _in_memory(document: object) -> str:
    """Return the path of a file that has no place on any disk and lives as long as this process."""
    fd = os.memfd_create("envmgr-auth", os.MFD_CLOEXEC)
    os.write(fd, json.dumps(document).encode())
    return f"/proc/self/fd/{fd}"


def client(network: Network, *, mirrors: bool, max_retries: int) -> Client:
    """Return a client for `network`; freshness is asked of the server for every index (``Cache-Control: no-cache``)."""
    return Client.from_config(
        Config.from_toml(_toml(network, mirrors=mirrors)),
        max_retries=max_retries,
        headers={"Cache-Control": "no-cache"},
        user_agent="envmgr",
    )


def _toml(network: Network, *, mirrors: bool) -> str:
    # JSON's strings and lists of strings are TOML's, too.
    lines = ['tls-root-certs = "system"', f"tls-no-verify = {json.dumps(not network.verify_tls)}"]
    proxies = dict(network.proxies)
    lines.append("[proxy-config]")
    lines += [f"{key} = {json.dumps(proxies[key])}" for key in ("http", "https") if proxies.get(key)]
    excepted = [host.strip() for host in proxies.get("no", "").split(",") if host.strip()]
    lines.append(f"non-proxy-hosts = {json.dumps(excepted)}")
    if mirrors:
        lines.append("[mirrors]")
        lines += [f"{json.dumps(_slashed(url))} = {json.dumps([*map(_slashed, to)])}" for url, to in network.mirrors]
    return "\n".join(lines)


def _slashed(url: str) -> str:
    return url.rstrip("/") + "/"


def candidates(url: str, network: Network) -> tuple[str, ...]:
    """Return the URLs at which `url` is to be asked for, in order: its mirrors, or itself."""
    matching = [(prefix, to) for prefix, to in network.mirrors if url.startswith(_slashed(prefix))]
    if not matching:
        return (url,)
    prefix, mirrors = max(matching, key=lambda entry: len(entry[0]))
    rest = url[len(_slashed(prefix)) :]
    return tuple(_slashed(mirror) + rest for mirror in mirrors) or (url,)


class Http:
    """Fetches and unpacks archives; the `envmgr.backends.transfers.Transport` of a builder."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._client = client(network, mirrors=False, max_retries=0)
        self._answered: dict[str, str] = {}

    async def fetch(self, url: str, sink: Sink, *, is_again: bool = False) -> None:
        """Write the bytes at `url` into `sink`; `NetworkError` and `ChannelError` after all retries.

        With `is_again` the place that answered the last time with wrong bytes is the last to be asked.
        """
        if url.startswith("file://"):
            await asyncio.to_thread(_copy, url, sink)
            return
        places = list(candidates(url, self._network))
        if is_again and (last := self._answered.get(url)) in places:
            places = [place for place in places if place != last] + [last]
        pause_s = _FIRST_PAUSE_S
        failure: EnvmgrError | None = None
        for turn in range(self._network.max_retries + 1):
            if turn:
                await asyncio.sleep(pause_s * random.uniform(0.7, 1.3))  # noqa: S311 - jitter, no secret
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            for place in tuple(places):
                try:
                    await self._fetch_once(place, sink)
                except ChannelError as error:
                    failure = error
                    if not error.is_transient:
                        places.remove(place)
                else:
                    self._answered[url] = place
                    return
            if not places:
                break
        raise failure or NetworkError(f"{redact(url)} was not asked for: no retries are allowed")

    async def _fetch_once(self, url: str, sink: Sink) -> None:
        sink.restart()
        doing = f"cannot download {redact(url)}"
        task = asyncio.ensure_future(download_to_writer(self._client, url, sink))
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=_LOOK_S)
                if time.monotonic() - sink.last_at > self._network.timeout_s:
                    raise NetworkError(
                        f"{doing}: nothing arrived for {self._network.timeout_s:g} s, after {sink.size_bytes} bytes",
                        hint="the setting network timeout allows longer pauses",
                    )
            task.result()
        except EnvmgrError:
            raise
        except Exception as error:
            if sink.failure is not None:
                raise translate(sink.failure, doing) from error
            text = redact(str(error))
            raise of_answer(text, doing) or translate(error, doing) from error
        finally:
            sink.stop()  # cancelling does not stop a thread of rattler's that is about to write
            if not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=1)

    async def unpack(self, archive: Path, directory: Path) -> None:
        """Unpack a verified archive, whose name tells its kind, into `directory`, which is made."""
        # The synchronous call would hold the interpreter's lock all the time; this one works in rattler's threads.
        await download_and_extract(self._client, archive.as_uri(), directory)


def _copy(url: str, sink: Sink) -> None:
    sink.restart()
    path = Path(unquote(urlsplit(url).path))
    try:
        # A spec may name any file of this host: a pipe would never end to open, nor a device to be read.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ChannelError(f"{path} is no regular file")
            while block := file.read(_BLOCK_BYTES):
                sink.write(block)
    except FileNotFoundError as error:
        raise ChannelError(f"{path} is not there", hint="the channel's index names a package that it lacks") from error
    except OSError as error:
        raise translate(error, f"cannot copy {path}") from error
    finally:
        sink.stop()


async def unless_stalled(work: Awaitable[T], timeout_s: float, doing: str) -> T:
    """Await `work`; raise `NetworkError` when for `timeout_s` no byte arrived and the process hardly computed."""
    task = asyncio.ensure_future(work)
    seen, at, cpu_s = _received_bytes(), time.monotonic(), time.process_time()
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=min(_LOOK_S, timeout_s / 4))
            now, received = time.monotonic(), _received_bytes()
            if received != seen or time.process_time() - cpu_s > _BUSY_SHARE * timeout_s:
                seen, at, cpu_s = received, now, time.process_time()
            elif now - at > timeout_s:
                raise NetworkError(
                    f"{doing}: nothing arrived for {timeout_s:g} s",
                    hint="the setting network timeout allows longer pauses",
                )
        return task.result()
    finally:
        task.cancel()


def _received_bytes() -> int:
    """Return what has arrived on the TCP connections that are open in this process."""
    total = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                continue
            connection = socket.socket(fileno=int(name))
        except OSError:
            continue  # closed meanwhile
        try:
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_RECEIVED.size)
        except OSError:
            continue  # not a TCP socket
        finally:
            connection.detach()  # it is rattler's
        if len(info) == _TCP_INFO_RECEIVED.size:
            total += int(_TCP_INFO_RECEIVED.unpack(info)[0])
    return total
