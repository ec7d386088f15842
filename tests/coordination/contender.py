"""A process that takes claims as it is told on standard input, a line each, and answers each with a line.

``acquire PATH SECONDS``, ``state``, ``guarded PATH`` (a write that the claim guards), ``release``, ``rounds PATH COUNT
DIRECTORY`` (take it so often, alone in the directory), ``end``.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from envmgr.coordination.zookeeper.claims import Claim, Claims
from envmgr.coordination.zookeeper.client import boot_time
from envmgr.coordination.zookeeper.endpoint import Endpoint
from envmgr.coordination.zookeeper.session import Create, NoNode, Session
from envmgr.errors import EnvmgrError


class Contender:
    """The process, as the test sees it."""

    def __init__(self, endpoint: Endpoint, host: str) -> None:
        arguments = json.dumps([endpoint.servers, endpoint.root, endpoint.session_s, host])
        self._process = subprocess.Popen(
            [sys.executable, __file__, arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.pid = self._process.pid

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")

    def hear(self) -> list[str]:
        assert self._process.stdout is not None
        return self._process.stdout.readline().split()

    def ask(self, line: str) -> list[str]:
        self.tell(line)
        return self.hear()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def contender(endpoint: Endpoint, host: str = "other") -> Iterator[Contender]:
    """Run one for the length of a block."""
    process = Contender(endpoint, host)
    try:
        yield process
    finally:
        process.close()


class _Belief:
    """Asks a claim without end whether it is held, and keeps the last time (asked for before) at which it was."""

    def __init__(self, claim: Claim) -> None:
        self.last = 0.0
        self._claim = claim
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            now = boot_time()
            if self._claim.is_lost:
                return
            self.last = now


def main() -> None:
    servers, root, session_s, host = json.loads(sys.argv[1])
    session = Session(Endpoint(servers=tuple(servers), root=root, session_s=session_s))
    session.start()
    claims = Claims(session, host)
    stack = contextlib.ExitStack()
    claim: Claim | None = None
    belief: _Belief | None = None
    for line in sys.stdin:
        word, *rest = line.split()
        try:
            if word == "acquire":
                claim = stack.enter_context(claims.acquire(rest[0], timeout_s=float(rest[1]), what="contender"))
                belief = _Belief(claim)
                answer = f"held {claim.token}"
            elif word == "state" and claim is not None and belief is not None:
                answer = f"{'lost' if claim.is_lost else 'held'} {belief.last}"
            elif word == "guarded" and claim is not None:
                try:
                    session.write([claim.guard(), Create(rest[0])])
                    answer = "written"
                except NoNode as error:
                    answer = f"refused {error.index}"
            elif word == "rounds":
                rounds(claims, rest[0], int(rest[1]), Path(rest[2]))
                answer = "done"
            elif word == "release":
                stack.close()
                answer = "released"
            else:
                break
        except EnvmgrError as error:
            answer = f"error {error.code}"
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()
    session.close()


def rounds(claims: Claims, path: str, count: int, directory: Path) -> None:
    """Take the claim so often; whoever holds it is alone in `directory`, and appends its token to ``tokens``."""
    for _ in range(count):
        with claims.acquire(path, timeout_s=60) as claim:
            os.close(os.open(directory / "inside", os.O_CREAT | os.O_EXCL))
            with (directory / "tokens").open("a") as file:
                file.write(f"{claim.token}\n")
            (directory / "inside").unlink()


if __name__ == "__main__":
    main()
