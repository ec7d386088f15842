"""A driver: runs a task for each runtime_env that it is given as JSON, all at once, and prints what became of them.

``ray_driver.py tasks [[runtime_env, resource], …]``; ``ray_driver.py hold runtime_env`` starts an actor that stays when
this driver is gone, ``ray_driver.py release`` ends it.
"""

import importlib.util
import json
import os
import sys
import time

import ray

from envmgr.runners.ray import check

LIMIT_S = 100


def look():
    """Tell where this worker runs, and which leases it holds itself."""
    humanize = importlib.util.find_spec("humanize")
    descriptors = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    targets = [os.readlink(path) for path in descriptors if os.path.islink(path)]
    return {
        "checked": check(),
        "prefix": sys.prefix,
        "node": ray.get_runtime_context().get_node_id(),
        "ray": ray.__file__,
        "humanize": humanize and humanize.origin,
        "leases": [target for target in targets if target.endswith("/lease")],
        "last_path": sys.path[-1],
        "environ": {key: os.environ.get(key) for key in ("CONDA_PREFIX", "PATH", "ADDED", "PYTHONNOUSERSITE")},
    }


def outcome(task):
    began = time.monotonic()
    try:
        return ray.get(task, timeout=LIMIT_S)
    except Exception as error:  # noqa: BLE001 - the test judges it
        return {"error": type(error).__name__, "text": str(error), "seconds": time.monotonic() - began}


class Holder:
    def where(self):
        return sys.prefix


def main(verb, *arguments):
    ray.init(log_to_driver=False, namespace="test")
    if verb == "tasks":
        function = ray.remote(num_cpus=0.5)(look)  # two at a time on each node
        tasks = [
            function.options(runtime_env=runtime_env, resources={resource: 1} if resource else None).remote()
            for runtime_env, resource in json.loads(arguments[0])
        ]
        return [outcome(task) for task in tasks]
    if verb == "hold":
        options = {"name": "holder", "lifetime": "detached", "runtime_env": json.loads(arguments[0])}
        return ray.get(ray.remote(Holder).options(**options).remote().where.remote(), timeout=LIMIT_S)
    ray.kill(ray.get_actor("holder"))
    return None


sys.stdout.write(json.dumps(main(*sys.argv[1:])) + "\n")
