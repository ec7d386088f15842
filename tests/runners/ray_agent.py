"""The plugin in a process of its own, called as Ray's agent calls it; prints JSON.

``ray_agent.py one-gives-up | one-has-little-time | all-give-up | worker SPEC``
"""

import asyncio
import json
import logging
import os
import sys

from ray._private.runtime_env.context import RuntimeEnvContext
from ray.core.generated.common_pb2 import Language

from envmgr.runners.ray import EnvmgrPlugin, runtime_env

LOOK = """
import json, os, subprocess, sys
child = subprocess.run(["python", "-c", "import ray, sys; print(sys.prefix)"], capture_output=True, text=True)
variables = {key: os.environ.get(key) for key in ("VIRTUAL_ENV", "PYTHONPATH", "GIVEN", "DOLLAR")}
print(json.dumps({"prefix": sys.prefix, "child": child.stdout.strip(), **variables}))
"""


class Begun(logging.Handler):
    """Tells when a build is under way."""

    def __init__(self):
        super().__init__()
        self.loop = asyncio.get_running_loop()
        self.event = asyncio.Event()

    def emit(self, record):
        if "envmgr: link: " in record.getMessage():
            self.loop.call_soon_threadsafe(self.event.set)


async def give_up(asked, how_many, hurried=None):
    plugin = EnvmgrPlugin()
    (uri,) = plugin.get_uris(asked)
    begun = Begun()
    logger = logging.getLogger("runtime_env_01")
    logger.setLevel(logging.INFO)
    logger.addHandler(begun)
    values = [hurried or asked, asked, asked]
    tasks = [asyncio.create_task(plugin.create(uri, value, RuntimeEnvContext(), logger)) for value in values]
    await asyncio.wait_for(begun.event.wait(), 60)
    for task in tasks[:how_many]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    children = [pid for pid in os.listdir("/proc") if pid.isdigit() and parent(pid) == os.getpid()]
    plugin.delete_uri(uri)
    return {"outcomes": [type(outcome).__name__ for outcome in outcomes], "children": len(children)}


def parent(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return None


async def prepared(asked):
    plugin = EnvmgrPlugin()
    (uri,) = plugin.get_uris(asked)
    context = RuntimeEnvContext(env_vars={"GIVEN": "1"})
    await plugin.create(uri, asked, context)
    plugin.modify_context([uri], asked, context)
    return context


def main(verb, text):
    asked = runtime_env(json.loads(text))
    if verb == "one-has-little-time":
        hurried = runtime_env(json.loads(text), timeout_s=0.1)
        sys.stdout.write(json.dumps(asyncio.run(give_up(asked, 0, hurried))) + "\n")
    elif verb != "worker":
        sys.stdout.write(json.dumps(asyncio.run(give_up(asked, 3 if verb == "all-give-up" else 1))) + "\n")
    else:
        context = asyncio.run(prepared(asked))
        context.exec_worker(["-c", LOOK], Language.PYTHON)  # Ray's own way: this process becomes the worker


main(*sys.argv[1:])
