"""A job in one environment, with tasks in another, and an actor that asks for its environment by name."""

import os
import sys
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from envmgr.runners.ray import runtime_env

WORDS = Path(__file__).with_name("environment.yml")
PLURALS = {"dependencies": ["python", "pip", {"pip": ["inflection"]}]}


@ray.remote
def count(number):
    import humanize  # of the job's environment

    return humanize.intword(number), os.path.basename(sys.prefix)


@ray.remote(runtime_env=runtime_env(PLURALS))
def plural(word):
    import inflection  # of this task's own

    return inflection.pluralize(word), ray.get_runtime_context().get_node_id(), os.path.basename(sys.prefix)


@ray.remote
class Counter:
    def count(self, number):
        import humanize

        return humanize.intword(number), os.path.basename(sys.prefix)


ray.init(sys.argv[1], runtime_env=runtime_env(WORDS), log_to_driver=False)
text, words = ray.get(count.remote(1_200_000), timeout=120)
print(f"job: {text}, in {words}")

everywhere = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in ray.nodes()]
tasks = [plural.options(scheduling_strategy=place).remote("task") for place in everywhere * 8]
plurals, nodes, environments = map(set, zip(*ray.get(tasks, timeout=120), strict=True))
print(f"{len(tasks)} {plurals.pop()}, nodes: {len(nodes)}, environments: {len(environments)}, in {environments.pop()}")

actor = Counter.options(runtime_env=runtime_env(words)).remote()
text, name = ray.get(actor.count.remote(2_000_000_000), timeout=120)
print(f"actor: {text}, in {name}, which is the job's: {name == words}")

try:
    ray.get(count.options(runtime_env=runtime_env({"dependencies": ["no-such-package"]})).remote(1), timeout=120)
except ray.exceptions.RuntimeEnvSetupError as error:
    print("broken:", next(line for line in str(error).splitlines() if line.startswith("envmgr.")))
