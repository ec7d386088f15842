"""What it costs Spark to start Python in a managed environment, against the same interpreter by its path."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import time
from collections.abc import Mapping
from functools import partial

import example_site

from benchmarks.measuring import BenchError, Figure, Rounds, Spread, in_turn
from benchmarks.workspace import Workspace

_MS = 1e-3
_SECRET = b"bench"
_LIMIT_S = 60


def starting(work: Workspace, *, is_quick: bool) -> list[Figure]:
    """Start daemons and a worker of each as an executor does, then jobs of Spark's that need a new daemon each.

    A job takes ten times as long as its daemon's start, for the JVM's part and for what the worker imports; the second
    of two equal sides tells how much of a difference is noise.
    """
    settings = work.new_store("spark-settings", work.channel) / "settings.toml"
    site = example_site.prepare(work.run.parent / "site", settings.read_text(encoding="utf-8"))
    with site.environment as environment:
        variables = site.variables(root=work.run.parent / "site" / "store", home=work.home)
        variables |= {"ENVMGR_ENV": "site", "SPARK_LOCAL_DIRS": str(work.run)}
        launcher, python = str(work.bin / "envmgr-python"), str(environment.path / "bin" / "python")
        (libraries,) = environment.prefix.glob("lib/python3.*/site-packages/pyspark/python/lib")
        executor = {**variables, "PYTHONPATH": ":".join(map(str, libraries.glob("*.zip")))}
        executor |= {"PYTHON_WORKER_FACTORY_SECRET": _SECRET.decode(), "SPARK_REUSE_WORKER": "1"}
        launched, direct = in_turn(
            Rounds(15 if is_quick else 61, 5, 30),
            [partial(_first_worker_s, command, executor) for command in (launcher, python)],
        )
        program = [site.python, *work.program("runners/spark_jobs", "5" if is_quick else "15")[2:]]
        printed = work.output([*program, launcher, python, python], variables)
    jobs, by_path, again = (Spread(tuple(values)) for values in json.loads(printed))
    what, path = "Spark's Python daemon and its first worker", "its path"
    return [
        Figure("spark", f"{what}, envmgr-python", launched, "difference", direct, path, goal=50 * _MS),
        Figure("spark", f"{what}, envmgr-python", launched, "ratio", direct, path),
        Figure("spark", "a job that needs a new daemon, envmgr-python", jobs, "difference", by_path, path),
        Figure("spark", "noise: the job by its path", again, "difference", by_path, path),
    ]


def _first_worker_s(python: str, variables: Mapping[str, str]) -> float:
    """Return the time from an executor's start of Python until the first worker has shaken hands.

    The daemon writes its port, its worker a pid and, when it knows the secret, a text with its length before it. The
    daemon ends with its standard input.
    """
    command = [python, "-m", "pyspark.daemon", "pyspark.worker"]
    began = time.perf_counter()
    with subprocess.Popen(command, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        said = process.stdout.read(4) if process.stdout else b""
        if len(said) != 4:
            raise BenchError(f"{' '.join(command)} does not start")
        with socket.create_connection(("127.0.0.1", *struct.unpack(">i", said)), _LIMIT_S) as connection:
            connection.sendall(struct.pack(">i", len(_SECRET)) + _SECRET)
            with connection.makefile("rb") as stream:
                answer = stream.read(10)
            took_s = time.perf_counter() - began
    if answer[4:] != struct.pack(">i", 2) + b"ok":
        raise BenchError(f"no worker of {' '.join(command)} answers: {answer!r}")
    return took_s
