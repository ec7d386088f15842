"""Start Ray workers, in turn with each of several runtime_envs, and print the seconds that each took, as JSON.

``ray_workers.py DIRECTORY ROUNDS RUNTIME_ENVS``: run by the site's interpreter, which has Ray and not this package. A
worker is started anew for each measurement, since a variable of its runtime_env is like no other's: measured is the
time from asking for an actor to its first answer. Last come the seconds of what envmgr's plugin does for one worker, in
this process, which are too few to be seen in the others.
"""

import asyncio
import json
import os
import sys
import time

import ray
from ray._private.runtime_env.context import RuntimeEnvContext

from envmgr.runners.ray import EnvmgrPlugin


@ray.remote(num_cpus=1)
class Worker:
    def prefix(self):
        return sys.prefix


def start(runtime_env, number):
    began = time.perf_counter()
    worker = Worker.options(runtime_env={**runtime_env, "env_vars": {"ROUND": str(number)}}).remote()
    prefix = ray.get(worker.prefix.remote(), timeout=120)
    took_s = time.perf_counter() - began
    ray.kill(worker)
    return took_s, os.path.realpath(prefix)


def plug(plugin, runtime_env):
    began = time.perf_counter()
    context = RuntimeEnvContext()
    (uri,) = plugin.get_uris(runtime_env)
    asyncio.run(plugin.create(uri, runtime_env, context))
    plugin.modify_context([uri], runtime_env, context)
    plugin.delete_uri(uri)
    return time.perf_counter() - began


def main(directory, rounds, text):
    runtime_envs = json.loads(text)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False, _temp_dir=directory)
    for number, runtime_env in enumerate(runtime_envs):  # what only the first start pays
        start(runtime_env, f"first {number}")
    taken = [[] for _ in runtime_envs]
    prefixes = set()
    for number in range(int(rounds)):
        for step in range(len(runtime_envs)):
            side = (number + step) % len(runtime_envs)
            took_s, prefix = start(runtime_envs[side], f"{number} {side}")
            taken[side].append(took_s)
            prefixes.add(prefix)
    if len(prefixes) != 1:
        sys.exit(f"not one interpreter: {prefixes}")
    plugin = EnvmgrPlugin()
    taken.append([plug(plugin, {**runtime_envs[0], "env_vars": {}}) for _ in range(20)])
    print(json.dumps(taken))


main(*sys.argv[1:])
