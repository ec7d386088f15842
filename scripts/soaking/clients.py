"""What callers do, each with random numbers of its own.

A caller may lose its connection when the daemon was ended meanwhile, and an operation may fail for what was done to it:
cancelled, its builder killed, its environment removed. Everything else that goes wrong is a `Violation`.
"""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from envmgr import ready
from soaking.place import LIMIT_S, Gone, Place, Violation

_EXCUSED = frozenset({"cancelled", "builder_died", "daemon", "busy", "not_found", "in_use", "timed_out"})
"""What an operation may come to when others remove, cancel and kill."""
_EXIT_CODES = frozenset({0, 1, 4, 6, 7, 9, 128 + signal.SIGTERM, 128 + signal.SIGINT})
_NONSENSE: tuple[tuple[str, str, bytes | None], ...] = (
    ("GET", "/v1/environments/..%2F..%2Fetc", None),
    ("GET", "/v1/nowhere", None),
    ("POST", "/v1/environments", b"{"),
    ("POST", "/v1/environments", b'{"name": "-x"}'),
    ("POST", "/v1/names", b'{"spec": {"text": 1, "includes": {}}}'),
    ("DELETE", "/v1/operations/0", None),
    ("PUT", "/v1/aliases/%00", b"{}"),
)


class Client:
    """One caller of one round."""

    def __init__(self, place: Place, chance: random.Random) -> None:
        self._place = place
        self._chance = chance
        self.did: list[str] = []

    def act(self) -> None:
        """Do one thing, to its end."""
        acts: list[tuple[Callable[[], None], int]] = [
            (self._ensure, 10), (self._use, 4), (self._command, 2), (self._remove, 3), (self._cancel, 2),
            (self._collect, 1), (self._replace, 1), (self._alias, 1), (self._look, 2), (self._nonsense, 2),
        ]  # fmt: skip
        (act,) = self._chance.choices([act for act, _ in acts], [weight for _, weight in acts])
        self.did.append(act.__name__.lstrip("_"))
        with self._may_be_gone():
            act()

    @contextlib.contextmanager
    def _may_be_gone(self) -> Iterator[None]:
        before = self._place.ends
        try:
            yield
        except Gone as error:
            if not self._place.was_ended(before):
                raise Violation(f"{self.did[-1]}: the daemon broke off although it lives") from error

    # ----------------------------------------------------------------------------------------------------------- acts

    def _ensure(self) -> None:
        """Have an environment made, and follow it to its end, or hang up before."""
        number = self._chance.randrange(len(self._place.texts))
        is_satisfiable = "soak-nowhere" not in self._place.texts[number]
        asked = {**self._place.asking(number), "cancel_when_unwanted": self._chance.random() < 0.5}
        if self._chance.random() < 0.3:
            asked |= {"retry": True}
        hears = self._chance.choice([None, 0, 1, 3, 10])
        with contextlib.closing(self._place.connect()) as connection:
            reply = connection.ask("POST", "/v1/environments", asked)
            if reply.status == 200:
                self._use_ready(reply.document["ready"])
            elif reply.status == 202:
                for heard, (event, data) in enumerate(connection.events(reply.document["operation"]["id"])):
                    if event == "end":
                        self._judge(data, is_satisfiable=is_satisfiable)
                    if heard == hears:
                        return

    def _judge(self, operation: Mapping[str, Any], *, is_satisfiable: bool = True) -> None:
        if operation["state"] == "succeeded":
            if not is_satisfiable:
                raise Violation(f"what cannot be was made: {operation}")
            if operation["kind"] == "ensure":
                self._use_ready(operation["result"]["ready"])
            return
        code = operation["error"]["code"]
        if code not in _EXCUSED and not (code == "unsatisfiable" and not is_satisfiable):
            raise Violation(f"{operation['kind']} {operation['name']} failed: {operation['error']}")

    def _use_ready(self, found: Mapping[str, str]) -> None:
        """Take a lease while the daemon holds its own, and look whether the files are there for as long."""
        lease = ready.acquire(str(self._place.root), found["name"])
        if lease is None:
            return  # removed since, by name; the daemon's lease keeps the files, but we may not come to them
        try:
            shares = list(Path(lease.prefix, "share").glob("soak-*/file-*.txt"))
            if not shares or not all(path.read_bytes() for path in shares):
                raise Violation(f"{lease.prefix} is leased and not whole")
        except FileNotFoundError as error:
            raise Violation(f"{error.filename} vanished from a leased build") from error
        finally:
            lease.close()

    def _use(self) -> None:
        """Use an environment that is there, by its name, over a connection that is kept."""
        environments = self._place.ask("GET", "/v1/environments").document["environments"]
        names = sorted(it["name"] for it in environments if it["state"] == "ready")
        if not names:
            return
        with contextlib.closing(self._place.connect()) as connection:
            reply = connection.ask("POST", "/v1/environments", {"name": self._chance.choice(names)})
            if reply.status == 200:
                self._use_ready(reply.document["ready"])

    def _command(self) -> None:
        """Let the command line create one, and sometimes end it on the way."""
        path = self._place.directory / f"spec-{id(self)}.yml"
        path.write_text(self._chance.choice(self._place.texts[:-1]))
        before = self._place.ends
        process = subprocess.Popen(
            [sys.executable, "-m", "envmgr", "--root", self._place.root, "create", path],
            env=self._place.environ(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            if self._chance.random() < 0.3:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(self._chance.uniform(0.3, 1.5))
                process.send_signal(self._chance.choice([signal.SIGTERM, signal.SIGINT, signal.SIGKILL]))
            _, said = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            raise Violation(f"envmgr create has not ended within {LIMIT_S:g} s") from None
        finally:
            process.kill()
            process.wait()
        # Ended by a signal before it could take it, it has that for a status.
        if process.returncode not in _EXIT_CODES and process.returncode >= 0 and not self._place.was_ended(before):
            raise Violation(f"envmgr create ended with {process.returncode}: {said.decode()[-500:]}")
        if b"Traceback" in said or b"unexpected" in said:
            raise Violation(f"envmgr create: {said.decode()[-1000:]}")

    def _remove(self) -> None:
        name = self._name()
        if name is not None:
            mode = self._chance.choice(["refuse", "when-free"])
            forget = self._chance.choice(["true", "false"])
            self._place.ask("DELETE", f"/v1/environments/{name}?mode={mode}&forget={forget}")

    def _cancel(self) -> None:
        operations = self._place.ask("GET", "/v1/operations").document["operations"]
        going = [it["id"] for it in operations if it["state"] in ("queued", "running")]
        if going:
            self._place.ask("DELETE", f"/v1/operations/{self._chance.choice(going)}")

    def _collect(self) -> None:
        limits = {"dry_run": self._chance.random() < 0.3, "max_age_s": 0.001, "min_age_s": 0.0}
        self._follow("/v1/collections", limits if self._chance.random() < 0.5 else {"dry_run": False})

    def _replace(self) -> None:
        name = self._name()
        if name is not None:
            if self._chance.random() < 0.5:
                self._follow(f"/v1/environments/{name}/relock", {})
            else:
                self._follow(f"/v1/environments/{name}/repair", None)

    def _follow(self, target: str, body: object) -> None:
        with contextlib.closing(self._place.connect()) as connection:
            reply = connection.ask("POST", target, body)
            if reply.status == 202:
                for event, data in connection.events(reply.document["operation"]["id"]):
                    if event == "end":
                        self._judge(data)

    def _alias(self) -> None:
        name = self._name()
        if name is not None:
            alias = f"alias-{self._chance.randrange(3)}"
            self._place.ask("PUT", f"/v1/aliases/{alias}", {"environment": name, "move": True})
            if self._chance.random() < 0.3:
                self._place.ask("DELETE", f"/v1/aliases/{alias}")

    def _look(self) -> None:
        for target in ("/v1/status", "/v1/operations", "/v1/aliases", "/v1/environments"):
            if self._place.ask("GET", target).status != 200:
                raise Violation(f"GET {target} was refused")
        with contextlib.closing(self._place.connect()) as connection:
            if b"envmgr_environments" not in connection.text("/metrics"):
                raise Violation("/metrics tells of no environments")

    def _nonsense(self) -> None:
        method, target, body = self._chance.choice(_NONSENSE)
        with contextlib.closing(self._place.connect()) as connection:
            if connection.ask(method, target, body).status < 400:
                raise Violation(f"{method} {target} was answered")

    def _name(self) -> str | None:
        environments = self._place.ask("GET", "/v1/environments").document["environments"]
        names = sorted(it["name"] for it in environments)
        return self._chance.choice(names) if names else None
