"""The verbs of `envmgr.coordination.zookeeper.session.Session` for simulated hosts: the same operations on the wire.

That they are the same is not believed but compared, in every run: see `benchmarks.cluster.comparing`.
"""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.cluster import jute
from benchmarks.cluster.jute import Answer, Request
from benchmarks.cluster.thin import Line
from benchmarks.measuring import BenchError

Watch = Callable[[], None]


class ThinSession:
    """One simulated host's session; paths are below `root`."""

    __slots__ = ("beat_s", "line", "root")

    def __init__(self, line: Line, root: str, session_s: float) -> None:
        self.line = line
        self.root = root
        self.beat_s = session_s / 6

    async def get(self, path: str, watch: Watch | None = None) -> Answer | None:
        """Return a node, ``None`` if there is none."""
        while True:
            answer = await self._ask(Request("getData", self.root + path, is_watching=watch is not None), watch)
            if answer.error == jute.OK:
                return answer
            if watch is None or await self._is_missing(path, watch):
                return None

    async def children(self, path: str, watch: Watch | None = None) -> tuple[str, ...]:
        """Return the names of a node's children; of a missing one none."""
        while True:
            answer = await self._ask(Request("getChildren", self.root + path, is_watching=watch is not None), watch)
            if answer.error == jute.OK:
                return tuple(sorted(answer.children))
            if watch is None or await self._is_missing(path, watch):
                return ()

    async def create(self, path: str, data: bytes = b"", *, flags: int = jute.PERSISTENT) -> Answer | None:
        """Make a node and the parents that it lacks; ``None``: it is there already. `Answer.path` is below the root."""
        request = Request("create2", self.root + path, data, flags=flags)
        while (answer := await self._ask(request)).error == jute.NO_NODE:
            await self.make_parents(path)
        if answer.error == jute.NODE_EXISTS:
            return None
        return Answer(jute.OK, data, (), answer.path[len(self.root) :], answer.version, answer.czxid)

    async def make_parents(self, path: str) -> None:
        """Make the nodes above a path, from the lowest that can be made downwards."""
        parts = (self.root + path).split("/")[1:-1]
        above = ["/" + "/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        depth = len(above) - 1
        while depth < len(above):
            answer = await self._ask(Request("create", above[depth]))
            depth += -1 if answer.error == jute.NO_NODE else 1

    async def exists(self, path: str, watch: Watch | None = None) -> Answer | None:
        """Return what is known of a node but its data, ``None`` if there is none."""
        answer = await self._ask(Request("exists", self.root + path, is_watching=watch is not None), watch)
        return None if answer.error == jute.NO_NODE else answer

    async def put(self, path: str, data: bytes, version: int = -1) -> Answer:
        """Replace a node's data; the answer's `error` says whether it was done."""
        return await self._ask(Request("setData", self.root + path, data, version=version))

    async def delete(self, path: str) -> Answer:
        return await self._ask(Request("delete", self.root + path))

    async def write(self, *parts: Request) -> Answer:
        """Do all parts or none; their paths are below the root."""
        full = (Request(part.kind, self.root + part.path, part.data, False, part.flags, part.version) for part in parts)
        return await self._ask(Request("multi", parts=tuple(full)))

    async def sync(self, path: str = "") -> None:
        await self._ask(Request("sync", self.root + path))

    async def _is_missing(self, path: str, watch: Watch) -> bool:
        answer = await self._ask(Request("exists", self.root + path, is_watching=True), watch)
        return answer.error == jute.NO_NODE

    async def _ask(self, request: Request, watch: Watch | None = None) -> Answer:
        answer = await self.line.ask(request, watch)
        if answer.error not in {jute.OK, jute.NO_NODE, jute.NODE_EXISTS, jute.BAD_VERSION, jute.NOT_EMPTY}:
            raise BenchError(f"ZooKeeper refuses {request.kind} {request.path}: {answer.error}")
        return answer
