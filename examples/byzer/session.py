"""What a user of Byzer runs, against the emulated JVM side (jvm.py): a cell in the worker, and one on Ray.

session.py PYTHON_ENV [--exec PYTHON_EXEC] [--ray URL [--runtime-env JSON]]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import closing

from jvm import PythonWorkerException, PythonWorkerFactory, Row, fetch, serve

PLAIN = """
import os, sys
from pyjava.api.mlsql import PythonContext
context: PythonContext = context

rows = list(context.fetch_once_as_rows())
context.build_result([{
    "sum": sum(row["Busn_A"] for row in rows),
    "python": sys.executable,
    "prefix": os.environ["CONDA_PREFIX"],
}])
"""

ON_RAY = """
from pyjava.api.mlsql import RayContext
from ray.job_config import JobConfig

ray_context = RayContext.connect(globals(), %(url)r%(options)s)

def echo(row):
    import importlib.util, os, sys
    return {
        "ProductName": str(row["Busn_A"]) + "_jackm",
        "SubProduct": str(row["Busn_B"]) + "_product",
        "environment": os.path.basename(sys.prefix),
        "has_humanize": importlib.util.find_spec("humanize") is not None,
    }

ray_context.foreach(echo)
"""

DATA: list[Row] = [
    {"Busn_A": 114, "Busn_B": 57},
    {"Busn_A": 55, "Busn_B": 134},
    {"Busn_A": 27, "Busn_B": 137},
    {"Busn_A": 101, "Busn_B": 129},
]


def engine_variables() -> dict[str, str]:
    """Return what a JVM has that some service started: no environment is active in it."""
    kept = ("HOME", "LANG", "ENVMGR_ROOT", "RAY_AUTH_MODE", "RAY_USAGE_STATS_ENABLED")
    found = {key: os.environ[key] for key in kept if key in os.environ}
    # Ray's sockets lie below; their paths must be short.
    return {**found, "PATH": "/usr/local/bin:/usr/bin:/bin", "RAY_TMPDIR": os.environ["HOME"]}


def plain(factory: PythonWorkerFactory) -> None:
    """Run a cell in the worker."""
    with closing(factory.worker()) as worker:
        [row] = worker.run(PLAIN, DATA)
    print(f"sum {row['_0']} by {row['_1']}")
    print("the environment's own interpreter:", str(row["_1"]).startswith(f"{row['_2']}/"))


def on_ray(factory: PythonWorkerFactory, url: str, runtime_env: str | None) -> None:
    """Run a cell that gives the rows to Ray, and fetch what Ray made of them; two partitions."""
    options = ""
    if runtime_env is not None:
        options = f", job_config=JobConfig(runtime_env={json.loads(runtime_env)!r})"
    with closing(factory.worker()) as worker:
        partitions = [serve(DATA[:2]), serve(DATA[2:])]
        servers = worker.run(
            ON_RAY % {"url": url, "options": options}, partitions, {"pythonMode": "ray", "dataMode": "data"}
        )
        for server in servers:
            for row in fetch(server):
                print(row["_0"], row["_1"], "in", row["_2"], "with humanize" if row["_3"] else "")


def main() -> None:
    """Start the worker's daemon as the engine does, and run one cell."""
    parser = argparse.ArgumentParser(prog="session.py")
    parser.add_argument("python_env")
    parser.add_argument("--exec", default="python")
    parser.add_argument("--ray")
    parser.add_argument("--runtime-env")
    options = parser.parse_args()
    try:
        factory = PythonWorkerFactory(options.python_env, engine_variables(), options.exec)
        with closing(factory):
            if options.ray is None:
                plain(factory)
            else:
                on_ray(factory, options.ray, options.runtime_env)
    except PythonWorkerException as error:
        sys.exit(f"what the user sees: {error}")
    print("said on standard error:", repr(factory.said))


if __name__ == "__main__":
    main()
