"""The command line of ``scripts/soak``."""

from __future__ import annotations

import argparse
import contextlib
import random
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from soaking import checking, contract, faults
from soaking.clients import Client
from soaking.place import Place, Violation

_ONLY = "only made-up requests or only faults (default: both); or five hosts, ZooKeeper and faults (as root)"
_CLIENTS = (2, 6)
_ACTS = (2, 5)
_EXAMPLES_A_MINUTE = 20
"""Made-up requests of each operation and kind; so many take about half a minute."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run rounds until the time is up; 0 when everything held, 1 when something did not (the directory stays then)."""
    options = _parser().parse_args(arguments)
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    print(f"soak: seed {seed}, {options.minutes:g} minutes", flush=True)
    if options.only == "cluster":
        return _cluster(seed, options.minutes * 60)
    directory = Path(tempfile.mkdtemp(prefix="envmgr-soak-"))
    place = Place(directory)
    try:
        if options.only != "faults":
            place.ensure_daemon()
            asked = contract.explore(place, seed, max(1, round(options.minutes * _EXAMPLES_A_MINUTE)))
            checking.check_round(place)
            print(f"soak: {asked} made-up requests were answered as the document says", flush=True)
        if options.only != "contract":
            _summarise(*soak(place, seed, options.minutes * 60))
    except Violation as violation:
        print(f"soak: VIOLATED: {violation}\nsoak: repeat with --seed {seed}; see {directory}", flush=True)
        return 1
    finally:
        place.close()
    shutil.rmtree(directory, ignore_errors=True)
    return 0


def _cluster(seed: int, seconds: float) -> int:
    # It needs more than the rest: kazoo, root, ZooKeeper's servers.
    from soaking import cluster  # noqa: PLC0415

    try:
        _summarise(*cluster.soak(seed, seconds))
    except Violation as violation:
        print(f"soak: VIOLATED: {violation}\nsoak: repeat with --only cluster --seed {seed}", flush=True)
        return 1
    return 0


def _summarise(rounds: int, did: Counter[str]) -> None:
    words = ", ".join(f"{count} {what}" for what, count in sorted(did.items()))
    print(f"soak: everything held in {rounds} rounds: {words}", flush=True)


def soak(place: Place, seed: int, seconds: float) -> tuple[int, Counter[str]]:
    """Run rounds for so many seconds, at least one; return how many, and what was done how often."""
    chance = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    did: Counter[str] = Counter()
    rounds, until = 0, time.monotonic() + seconds
    place.ensure_daemon()
    while not rounds or time.monotonic() < until:
        did.update(_round(place, random.Random(chance.random())))  # noqa: S311
        checking.check_round(place)
        rounds += 1
    place.end_daemon(signal.SIGTERM)
    checking.check_end(place)
    return rounds, did


def _round(place: Place, chance: random.Random) -> list[str]:
    """Let clients and faults work at once, until the clients are done; return what was done."""
    violations: list[BaseException] = []
    is_over = threading.Event()
    harm: list[str] = []

    def started(work: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - whatever it is, the round has found it
                violations.append(error)

        thread = threading.Thread(target=guarded)
        thread.start()
        return thread

    clients = [Client(place, random.Random(chance.random())) for _ in range(chance.randint(*_CLIENTS))]  # noqa: S311
    own = random.Random(chance.random())  # noqa: S311
    harming = started(lambda: faults.befall(place, own, is_over, harm))
    acting = [started(partial(_act, client, chance.randint(*_ACTS))) for client in clients]
    for thread in acting:
        thread.join()
    is_over.set()
    harming.join()
    for violation in violations:
        if isinstance(violation, Violation):
            raise violation
        raise Violation(f"{type(violation).__name__}: {violation}") from violation
    return [*harm, *(what for client in clients for what in client.did)]


def _act(client: Client, acts: int) -> None:
    for _ in range(acts):
        client.act()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="soak", description="A daemon under random requests and faults.")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long the faults go on (10)")
    parser.add_argument("--only", choices=["contract", "faults", "cluster"], help=_ONLY)
    parser.add_argument("--seed", type=int, help="repeat the choices of a run")
    return parser


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
