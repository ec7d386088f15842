"""A simulated host: it asks ZooKeeper what a daemon's agent and builds ask, in the same order, and installs nothing.

What it leaves out: the disk, and all that happens when something goes wrong. That it asks the same as a real daemon is
compared operation by operation (`benchmarks.cluster.comparing`); it has to be changed with the agent. Its whole life
stands in one module, to be read beside that, although that makes it a little long.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import random
import time
import uuid
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import quote

from benchmarks.cluster import jute
from benchmarks.cluster.jute import Answer, Request
from benchmarks.cluster.session import ThinSession
from benchmarks.measuring import BenchError
from envmgr.agent import agent, givers, neighbours
from envmgr.agent.status import PROGRESS_S
from envmgr.coordination.zookeeper import tree as paths
from envmgr.wire.tree import (
    EnvironmentStatus,
    EnvState,
    Host,
    HostProgress,
    HostStatus,
    Intent,
    Manifest,
    Progress,
    Revision,
    decode,
    encode,
)

CLASS = "linux-64"


@dataclass(frozen=True, slots=True)
class Work:
    """What a build takes, and what it installs: a lockfile's text and its digest."""

    solve_s: float
    install_s: float
    lock_text: str
    digest: str


class SimulatedHost:
    """One host; `run` is its life. `ready` tells of environments: name → when their status was written (monotonic)."""

    def __init__(self, session: ThinSession, name: str, work: Work, *, interval_s: float, gives: bool) -> None:
        self.name = name
        self.ready: dict[str, float] = {}
        self.joined = asyncio.Event()
        self._session = session
        self._work = work
        self._interval_s = interval_s
        self._url = f"http://{name}.example.org:7463" if gives else None
        self._instance = uuid.uuid4().hex[:16]
        self._store_id = str(uuid.uuid4())
        self._environments: dict[str, EnvironmentStatus] = {}
        self._revision = 0
        self._revision_version = -1
        self._status_version = -1
        self._hosts = 1
        self._looked_around_at = float("-inf")
        self._change = asyncio.Event()
        self._relied_on = 0
        self._builds: set[asyncio.Task[None]] = set()
        self._awaited: dict[str, asyncio.Event] = {}
        self._phases: dict[str, str] = {}
        self._told: tuple[EnvironmentStatus, ...] = ()
        self._told_revision = -1
        self._told_progress: tuple[Progress, ...] = ()
        self._telling = asyncio.Lock()

    async def run(self) -> None:
        """Join, and do what the cluster wants, until cancelled."""
        async with contextlib.AsyncExitStack() as held:
            held.push_async_callback(self._end_builds)
            await self._join()
            self.joined.set()
            pause_s = _between(0.0, self._interval_s)  # as if they had been there for long: the passes are spread
            while True:
                for failed in [build for build in self._builds if build.done()]:
                    self._builds.discard(failed)
                    failed.result()
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._change.wait(), pause_s)
                    longest = min(agent.LONGEST_JITTER_S, self._hosts * agent.JITTER_PER_HOST_S)
                    await asyncio.sleep(_between(0.0, longest))
                self._change.clear()
                await self._look()
                pause_s = self._interval_s * _between(0.8, 1.2)

    async def made(self, name: str) -> None:
        """Wait until this host has said that an environment is ready."""
        if name not in self.ready:
            self._awaited[name] = asyncio.Event()
            await self._awaited[name].wait()

    def _ended(self, build: asyncio.Task[None]) -> None:
        """Let a build that failed end this host."""
        if build.cancelled() or build.exception() is None:
            self._builds.discard(build)
        else:
            self._change.set()

    async def _end_builds(self) -> None:
        for build in self._builds:
            build.cancel()
        await asyncio.gather(*self._builds, return_exceptions=True)

    # ------------------------------------------------------------------------------------------------------- the agent

    async def _join(self) -> None:
        """See that there is a cluster, read all that is declared, and be there."""
        session = self._session
        revision = await self._read_revision()
        await session.get(paths.CLUSTER)
        names = await session.children(paths.ENVS)
        await session.children(paths.ALIASES)
        intents = [await self._read_intent(name) for name in names]
        await session.get(paths.cordon(self.name))
        here = paths.host(self.name)
        await session.get(here)
        record = Host(
            host=self.name, instance=self._instance, machine_id=uuid.uuid4().hex, boot_id=str(uuid.uuid4()),
            store_id=self._store_id, machine_class=CLASS, version="0.1.0", archives=self._url, since=time.time(),
        )  # fmt: skip
        await session.create(here, encode(record), flags=jute.EPHEMERAL)
        await session.get(here, self._ignore)
        await self._look_around()
        await session.get(paths.status(self.name))
        self._status_version = 0
        await session.create(paths.status(self.name), self._status())  # known before it begins anything
        await session.exists(paths.REVISION, self._change.set)
        self._revision = revision.number
        for intent in intents:
            if intent.selector.matches(self.name, {}):
                # What was declared before is taken for installed: a join is measured without builds.
                self._environments[intent.name] = self._said(intent, "ready")
        await self._tell()

    def _ignore(self) -> None:
        """Be told that this host's own node changed."""

    async def _look(self) -> None:
        """Do one pass: follow what changed since the last."""
        node = await self._session.exists(paths.REVISION, self._change.set)
        if node is not None and node.version == self._revision_version:
            return
        revision = await self._read_revision()
        missed = [change for change in revision.changes if change.revision > self._revision]
        self._revision = revision.number
        names = {word for change in missed for word in change.what if word.startswith("env-")}
        changed = [await self._read_intent(name) for name in names]
        intents = [intent for intent in changed if intent.selector.matches(self.name, {})]
        if intents and time.monotonic() > self._looked_around_at + neighbours.SIBLINGS_S:
            await self._look_around()
        for intent in intents:
            known = self._environments.get(intent.name)
            if known is not None:
                self._environments[intent.name] = dataclasses.replace(known, generation=intent.generation)
                continue
            self._environments[intent.name] = self._said(intent, "building")
            self._phases[intent.name] = ""
            build = asyncio.create_task(self._make(intent))
            self._builds.add(build)
            build.add_done_callback(self._ended)
        await self._tell()

    async def _read_revision(self) -> Revision:
        node = await self._session.get(paths.REVISION, self._change.set)
        if node is None:
            raise BenchError("there is no cluster for a simulated host to join")
        self._revision_version = node.version
        return decode(Revision, node.data, paths.REVISION)

    async def _read_intent(self, name: str) -> Intent:
        node = await self._session.get(paths.intent(name))
        if node is None:
            raise BenchError(f"the intent of {name} is not there")
        return decode(Intent, node.data, paths.intent(name))

    async def _look_around(self) -> None:
        self._looked_around_at = time.monotonic()
        hosts = await self._session.get(paths.HOSTS)
        self._hosts = 1 if hosts is None else max(1, hosts.child_count)
        entered = await self._session.children(paths.ARCHIVES)
        mine = None if self._url is None else f"{self.name}@{quote(self._url, safe='')}"
        if mine is not None and mine not in entered and len(entered) < givers.MOST:
            await self._session.create(f"{paths.GIVING}/{self.name}", flags=jute.EPHEMERAL)
            giving = await self._session.get(paths.GIVING)
            without = 0 if giving is None else giving.child_count - len(entered)
            if _between(0.0, 1.0) * without < givers.MOST - len(entered):
                await self._session.create(f"{paths.ARCHIVES}/{mine}", flags=jute.EPHEMERAL)

    def _said(self, intent: Intent, state: EnvState) -> EnvironmentStatus:
        is_ready = state == "ready"
        return EnvironmentStatus(
            name=intent.name, state=state, generation=intent.generation, lock_generation=int(is_ready),
            lock_digest=self._work.digest if is_ready else None, attempts=1, started_at=time.time(),
            finished_at=time.time() if is_ready else None,
        )  # fmt: skip

    def _status(self) -> bytes:
        status = HostStatus(
            host=self.name, instance=self._instance, revision=self._revision, at=time.time(),
            environments=tuple(self._environments.values()),
        )  # fmt: skip
        return encode(status)

    async def _tell(self) -> None:
        """Say what changed: how the environments stand, and how far the builds are."""
        async with self._telling:
            for name, phase in self._phases.items():
                state: EnvState = "waiting" if phase == "wait" else "building"
                self._environments[name] = dataclasses.replace(self._environments[name], state=state)
            states = tuple(self._environments.values())
            if (states, self._revision) != (self._told, self._told_revision):
                self._told, self._told_revision = states, self._revision
                version, self._status_version = self._status_version, self._status_version + 1
                answer = await self._session.put(paths.status(self.name), self._status(), version)
                if answer.error != jute.OK:
                    raise BenchError(f"the status of {self.name} was written by somebody else")
            builds = tuple(
                Progress(name=name, phase=phase, percent=0) for name, phase in self._phases.items() if phase != "wait"
            )
            if builds != self._told_progress:
                self._told_progress = builds
                await self._tell_progress(builds)

    async def _tell_progress(self, builds: tuple[Progress, ...]) -> None:
        where = paths.progress(self.name)
        if not builds:
            await self._session.delete(where)
            return
        data = encode(HostProgress(host=self.name, builds=builds))
        if (await self._session.put(where, data)).error == jute.NO_NODE:
            await self._session.create(where, data, flags=jute.EPHEMERAL)

    async def _tell_from_time_to_time(self) -> None:
        while True:
            await asyncio.sleep(max(PROGRESS_S, self._hosts / agent.PROGRESS_PER_S))
            await self._tell()

    # ------------------------------------------------------------------------------------------------------ the builds

    async def _make(self, intent: Intent) -> None:
        """Build one environment, and say that it is ready."""
        name = intent.name
        telling = asyncio.create_task(self._tell_from_time_to_time())
        try:
            await self._check_tree()
            async with self._claim(paths.build_claim(self._store_id, name)):
                await self._check_tree()
                if not await self._published(name):
                    await self._solve(name)
                self._phases[name] = "link"
                await asyncio.sleep(self._work.install_s)
        finally:
            telling.cancel()
        await self._manifest(name)  # to compare what was made with what is in force
        del self._phases[name]
        latest = self._environments[name].generation  # it may have been declared again meanwhile
        self._environments[name] = dataclasses.replace(self._said(intent, "ready"), generation=latest)
        await self._tell()
        self.ready[name] = time.monotonic()
        if name in self._awaited:
            self._awaited[name].set()

    async def _check_tree(self) -> None:
        """See that the tree still is the cluster's, before anything is claimed or read there for a build."""
        await self._session.get(paths.CLUSTER)

    async def _solve(self, name: str) -> None:
        """Wait for who solves, outside the queue; or be the one."""
        await self._check_tree()
        path = paths.solve_claim(name, CLASS)
        gate = f"{paths.CLAIMS}/gates/{path.removeprefix(paths.CLAIMS + '/').replace('/', '@')}"
        while True:
            if await self._outwait(name, path):
                await self._session.sync()
                if await self._published(name):
                    return
                await asyncio.sleep(_between(0.0, 1.0))
            elif await self._session.create(gate, flags=jute.EPHEMERAL) is not None:
                break
            else:
                await self._gone(gate)
        async with self._claim(path, gate) as claim:
            await self._session.sync()
            if await self._published(name):
                return
            await self._session.get(paths.failure(name, CLASS, 1))
            self._phases[name] = "solve"
            await asyncio.sleep(self._work.solve_s)
            await self._publish(name, claim)

    async def _publish(self, name: str, claim: str) -> None:
        data = self._work.lock_text.encode()
        word = uuid.uuid4().hex
        await self._session.children(paths.generations(name, CLASS))
        await self._session.create(paths.part(name, CLASS, word, 0), zlib.compress(data, 6))
        manifest = Manifest(
            name=name, machine_class=CLASS, generation=1, digest=self._work.digest,
            sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), parts_in=word, parts=1,
            published_by=self.name, published_at=time.time(), token=1,
        )  # fmt: skip
        await self._session.get(paths.failure(name, CLASS, 1))
        create = Request("create", paths.manifest(name, CLASS, 1), encode(manifest))
        await self._session.write(Request("check", claim), create)

    async def _manifest(self, name: str) -> Manifest | None:
        words = await self._session.children(paths.generations(name, CLASS))
        numbers = [int(word) for word in words if word.isdigit()]
        if not numbers:
            return None
        where = paths.manifest(name, CLASS, numbers[-1])
        node = await self._session.get(where)
        return None if node is None else decode(Manifest, node.data, where)

    async def _published(self, name: str) -> bool:
        """Read the lockfile in force; tell whether there is one."""
        manifest = await self._manifest(name)
        if manifest is None:
            return False
        for number in range(manifest.parts):
            await self._session.get(paths.part(name, CLASS, manifest.parts_in, number))
        return True

    # ------------------------------------------------------------------------------------------------------ the claims

    @contextlib.asynccontextmanager
    async def _claim(self, path: str, gate: str | None = None) -> AsyncIterator[str]:
        async with self._relying():
            record = {"host": self.name, "pid": 1000, "at": time.time(), "what": f"build of {path[-20:]}"}
            data, mark = json.dumps(record).encode(), uuid.uuid4().hex
            made = await self._session.create(f"{path}/{mark}-", data, flags=jute.EPHEMERAL_SEQUENCE)
            if made is None:
                raise BenchError(f"{path} has two contenders of one name")
            await self._stand(path, made)
            await self._session.sync(path)
            if gate is not None:
                await self._session.delete(gate)
            try:
                yield made.path
            finally:
                await self._release(path, made.path)

    async def _stand(self, path: str, made: Answer) -> None:
        own, is_told = made.path.rpartition("/")[2], False
        while True:
            queue = sorted(await self._session.children(path), key=lambda name: name[-10:])
            before = queue.index(own)
            if not before:
                return
            gone = asyncio.Event()
            if await self._session.get(f"{path}/{queue[before - 1]}", gone.set) is None:
                continue
            if not is_told:
                is_told = True
                queue = sorted(await self._session.children(path), key=lambda name: name[-10:])
                await self._session.get(f"{path}/{queue[0]}")
            await gone.wait()

    async def _outwait(self, name: str, path: str) -> bool:
        queue = sorted(await self._session.children(path), key=lambda node: node[-10:])
        if not queue:
            return False
        self._phases[name] = "wait"
        await self._gone(f"{path}/{queue[0]}")
        self._phases[name] = ""
        return True

    async def _gone(self, node: str) -> None:
        """Wait until a node is gone."""
        gone = asyncio.Event()
        while await self._session.get(node, gone.set) is not None:
            await gone.wait()
            if await self._session.get(node) is None:
                return
            gone.clear()

    async def _release(self, path: str, node: str) -> None:
        await self._session.delete(node)
        while path.count("/") > 3:  # /v1/claims/<kind> stays
            found = await self._session.exists(path)
            if found is None or found.child_count or (await self._session.delete(path)).error != jute.OK:
                return
            path = path.rpartition("/")[0]

    @contextlib.asynccontextmanager
    async def _relying(self) -> AsyncIterator[None]:
        """Have the session proved while somebody relies on it: at once, and each sixth of its time."""
        self._relied_on += 1
        beats = asyncio.create_task(self._beat()) if self._relied_on == 1 else None
        try:
            yield
        finally:
            self._relied_on -= 1
            if beats is not None:
                beats.cancel()

    async def _beat(self) -> None:
        while True:
            await self._session.sync()
            await asyncio.sleep(self._session.beat_s)


def _between(low: float, high: float) -> float:
    return random.uniform(low, high)  # noqa: S311 - no secret
