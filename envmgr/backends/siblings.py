"""Archives from the other hosts of the cluster, so that each comes from its channel about once for all of them.

For every archive all hosts rank each other alike (`rank`, rendezvous hashing): the first is the one that fetches it
from the channel, those behind it wait for it. How they ask is told in `envmgr.wire.archives`.

* Nothing but a sha256 that we have hashed ourselves is believed, so neither the way nor the other host is trusted. An
  archive that is known by its md5 only is never asked for. Who gave wrong bytes is not asked again in this build, and
  the build warns of him.
* A host asks those that rank before it, `_MOST_ASKED` at most, and waits for one that says 202 until that one made no
  progress for ``wait_s``. Of those behind it, it only takes what is there already, and so does it of the host that
  solved the lockfile, which has all. Then it fetches from the channel.
* So who waits, waits for a host that ranks before it, and ranks do not depend on who sees whom: no ring of waiting
  hosts comes about over one archive. Over several builds on full hosts one can; ``wait_s`` ends it, and all waiting of
  one build together ends after `_MOST_WAITS` times that. A build that solves waits for nobody: the others have no
  lockfile yet and wait for it.
* A host that refuses the connection is dead for this build, and so is one that `_MOST_BREAKS` times in a row takes no
  connection within `_CONNECT_S`, gives no answer within `_ANSWER_S`, or breaks off (once may be this host's own fault,
  where builds leave it no processor). After `_MOST_DEAD` more dead ones than living ones no other host is asked at all.
  One that gives less than `_LEAST_BYTES_PER_S` is left.

Not promised: that each archive is fetched once. Hosts that see different siblings, or come while the first one does not
know yet that it is to build, fetch it once more each. And a sibling may send up to `_LARGEST_BYTES` of rubbish.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from envmgr.events import Event, Reporter
from envmgr.wire import archives as wire

if TYPE_CHECKING:
    from envmgr.backends.transfers import Sink
    from envmgr.wire.pipe import Sharing

_MOST_ASKED = 3
_MOST_WAITS = 20
_MOST_DEAD = 4
_MOST_BREAKS = 2
_CONNECT_S = 1.0
_ANSWER_S = 3.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_BLOCK_BYTES = 1 << 18
_HEADER_BYTES = 1 << 14
_LEAST_BYTES_PER_S = 1 << 16
_LARGEST_BYTES = 16 << 30


def rank(sha256: str, urls: Iterable[str]) -> list[str]:
    """Return `urls` in the order in which these hosts are to have an archive; the same for all who ask."""
    return sorted(set(urls), key=lambda url: hashlib.sha256(f"{sha256} {url}".encode()).digest(), reverse=True)


class _Answer(Enum):
    HERE = "here"
    COMING = "coming"
    BUSY = "busy"
    ABSENT = "absent"


@dataclass(slots=True)
class _Sibling:
    """What this build knows of one other host."""

    url: str
    has_answered: bool = False
    is_left: Literal["dead", "liar"] | None = None
    breaks: int = 0
    broke_at: float = 0.0
    progress: str | None = None
    moved_at: float = 0.0
    is_stalled: bool = False
    is_told: bool = False


class _Broken(Exception):
    """The connection, or what came over it, is no answer; `is_final`: it will not be the next time."""

    def __init__(self, why: str, *, is_final: bool = False) -> None:
        super().__init__(why)
        self.is_final = is_final


class Siblings:
    """The other hosts, as one build of `name` asks them; with `is_solving` it waits for none of them."""

    def __init__(
        self, sharing: Sharing, name: str, machine_class: str, *, is_solving: bool, parallel: int, report: Reporter
    ) -> None:
        self._own = sharing.own
        solver = sharing.solver
        self._solver = solver if solver is not None and solver != sharing.own and wire.is_url(solver) else None
        others = set(filter(wire.is_url, sharing.others)) - {sharing.own}
        self._ranked = (*others, *filter(None, [sharing.own]))
        self._siblings = {url: _Sibling(url) for url in (*others, *filter(None, [self._solver]))}
        self._name = name
        self._machine_class = machine_class
        self._wait_s = sharing.wait_s
        self._is_solving = is_solving
        self._requests = asyncio.Semaphore(max(1, parallel))
        self._report = report
        self._waits_until: float | None = None
        self._is_off = False
        self.given_bytes = 0

    def is_first(self, sha256: str | None) -> bool:
        """Whether this host is the one that is to fetch an archive from its channel, without waiting for anybody."""
        return sha256 is None or not self._before(sha256)[0]

    async def fetch(self, sha256: str, label: str, sink: Sink, *, is_only_here: bool = False) -> bool:
        """Write the bytes with this `sha256` into `sink`, checked; ``False`` if they are to come from the channel.

        With `is_only_here`, no channel has them: all hosts are asked, the solver first, and no host is waited for that
        would have to ask the same ones. `label` is for people. Raises `OSError` when the sink cannot take them.
        """
        before, after = self._before(sha256)
        if is_only_here:
            for url in dict.fromkeys([*filter(None, [self._solver]), *before, *after]):
                if await self._take(self._siblings[url], sha256, label, sink, is_waiting=False):
                    return True
            return False
        asked = before[:_MOST_ASKED]
        for url in asked:
            if await self._take(self._siblings[url], sha256, label, sink, is_waiting=not self._is_solving):
                return True
        rest = [url for url in after if url != self._solver][: _MOST_ASKED - len(asked)]
        if self._solver is not None and self._solver not in asked:
            rest.insert(0, self._solver)
        for url in rest:
            if await self._take(self._siblings[url], sha256, label, sink, is_waiting=False):
                return True
        return False

    def _before(self, sha256: str) -> tuple[list[str], list[str]]:
        """Return the others that rank before this host, and those behind it; without a rank of its own it is last."""
        ranked = rank(sha256, self._ranked)
        own = ranked.index(self._own) if self._own is not None else len(ranked)
        return ranked[:own], ranked[own + 1 :]

    # -------------------------------------------------------------------------------------------------------- one host

    async def _take(self, sibling: _Sibling, sha256: str, label: str, sink: Sink, *, is_waiting: bool) -> bool:
        """Have an archive from one host, waiting for it as long as may be."""
        pause_s, since, begun = _FIRST_PAUSE_S, 0.0, 0.0
        while not self._is_off and sibling.is_left is None:
            try:
                async with self._requests:
                    begun = time.monotonic()
                    answer = await self._ask(sibling, sha256, label, sink)
            except _Broken as error:
                self._leave(sibling, error, begun)
                continue
            sibling.breaks = 0
            if answer is _Answer.HERE:
                self.given_bytes += sink.size_bytes
                return True
            # The one that solved has everything: if it is busy, that passes.
            may_wait = is_waiting or (answer is _Answer.BUSY and sibling.url == self._solver)
            if answer is _Answer.ABSENT or not may_wait or self._is_in_vain(sibling, since):
                return False
            if not since:
                since = time.monotonic()
                if not sibling.is_told:
                    sibling.is_told = True
                    self._report(Event("log", "fetch", f"waiting for {sibling.url}, which fetches {label} and more"))
            await asyncio.sleep(pause_s * random.uniform(0.7, 1.3))  # noqa: S311 - jitter, no secret
            pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
        return False

    def _is_in_vain(self, sibling: _Sibling, since: float) -> bool:
        """Tell whether to wait no longer for a host, which was waited for `since` then (0: not yet)."""
        now = time.monotonic()
        if self._waits_until is None:
            self._waits_until = now + _MOST_WAITS * self._wait_s
        if since and now - max(since, sibling.moved_at) > self._wait_s:
            sibling.is_stalled = True
        return sibling.is_stalled or now > self._waits_until

    def _leave(self, sibling: _Sibling, error: _Broken, begun: float) -> None:
        """Remember that a host did not answer as it should; of requests that ran at one time, one counts."""
        if sibling.is_left is not None or (begun < sibling.broke_at and not error.is_final):
            return
        sibling.breaks += 1
        sibling.broke_at = time.monotonic()
        if sibling.breaks < _MOST_BREAKS and not error.is_final:
            return
        sibling.is_left = "dead"
        self._report(Event("log", "fetch", f"{sibling.url} gives no archives: {error}"))
        dead = sum(one.is_left == "dead" for one in self._siblings.values())
        if dead - sum(one.has_answered for one in self._siblings.values()) > _MOST_DEAD:
            self._is_off = True
            self._report(Event("log", "fetch", "too many hosts do not answer; all archives come from their channels"))

    # ------------------------------------------------------------------------------------------------------ one request

    async def _ask(self, sibling: _Sibling, sha256: str, label: str, sink: Sink) -> _Answer:
        if self._is_off or sibling.is_left is not None:  # since this archive's turn was waited for
            return _Answer.ABSENT
        try:
            parts = urlsplit(sibling.url)
            connecting = asyncio.open_connection(parts.hostname, parts.port or 80, limit=_BLOCK_BYTES)
            reader, writer = await asyncio.wait_for(connecting, _CONNECT_S)
        except asyncio.TimeoutError as error:  # an OSError, too, from Python 3.11 on
            raise _Broken("it does not answer") from error
        except (OSError, ValueError) as error:
            raise _Broken(str(error), is_final=True) from error
        try:
            path = parts.path.rstrip("/") + wire.target(sha256, self._name, self._machine_class)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
            status, headers = await _head(reader)
            sibling.has_answered = True
            if status == 200:
                return await self._receive(sibling, reader, headers, sha256, label, sink)
        finally:
            writer.transport.abort()
        progress = headers.get(wire.PROGRESS.lower())
        if status == 202 and progress != sibling.progress:
            sibling.progress, sibling.moved_at, sibling.is_stalled = progress, time.monotonic(), False
        return {202: _Answer.COMING, 503: _Answer.BUSY}.get(status, _Answer.ABSENT)

    async def _receive(
        self,
        sibling: _Sibling,
        reader: asyncio.StreamReader,
        headers: dict[str, str],
        sha256: str,
        label: str,
        sink: Sink,
    ) -> _Answer:
        length = headers.get("content-length", "")
        if not (length.isascii() and length.isdigit()) or int(length) > _LARGEST_BYTES:
            raise _Broken("it does not say how much it sends", is_final=True)
        left = int(length)
        sink.restart()
        try:
            looked_at, come = time.monotonic(), 0
            while left:
                block = await _next(reader, min(left, _BLOCK_BYTES), self._wait_s)
                await asyncio.to_thread(sink.write, block)  # hashing holds no lock, but would hold the event loop
                left -= len(block)
                come += len(block)
                if (passed := time.monotonic() - looked_at) > self._wait_s:
                    if come < _LEAST_BYTES_PER_S * passed:
                        raise _Broken(f"only {come / passed:.0f} bytes/s come", is_final=True)
                    looked_at, come = time.monotonic(), 0
        finally:
            sink.stop()
        if sink.sha256 != sha256:
            sibling.is_left = "liar"
            self._report(
                Event(
                    "warning", "fetch", f"{sibling.url} gave wrong bytes for {label} (sha256 {sink.sha256}); not used"
                )
            )
            return _Answer.ABSENT
        sibling.moved_at = time.monotonic()
        return _Answer.HERE


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Return the status and the headers of an answer."""
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), _ANSWER_S)
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status = first.split(" ")[:2]
        if len(head) > _HEADER_BYTES or not version.startswith("HTTP/1.") or not re.fullmatch("[0-9]{3}", status):
            raise _Broken("it does not speak HTTP", is_final=True)
    except (OSError, EOFError, ValueError, asyncio.LimitOverrunError, asyncio.TimeoutError) as error:
        raise _Broken("there was no answer") from error
    pairs = (line.partition(":") for line in lines if ":" in line)
    return int(status), {key.strip().lower(): value.strip() for key, _, value in pairs}


async def _next(reader: asyncio.StreamReader, most: int, wait_s: float) -> bytes:
    try:
        block = await asyncio.wait_for(reader.read(most), wait_s)
    except (OSError, asyncio.TimeoutError) as error:
        raise _Broken("it broke off in the middle") from error
    if not block:
        raise _Broken("it broke off in the middle")
    return block
