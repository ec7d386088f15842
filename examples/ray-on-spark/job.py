"""A parameter server and two workers that fit a line, on a Ray cluster that Spark's executors carry."""

import os
import sys
import time

import numpy as np
import ray
from pyspark.sql import SparkSession
from ray.util.spark import setup_ray_cluster, shutdown_ray_cluster

TRUE = np.array([2.0, -3.0, 0.5])
ROUNDS = 60
MIB = 2**20


@ray.remote(num_cpus=0)
class Parameters:
    def __init__(self):
        self.weights = np.zeros(3)

    def push(self, *gradients):
        self.weights -= 0.1 * np.mean(gradients, axis=0)
        return self.weights


@ray.remote(num_cpus=1)
class Worker:
    def __init__(self, seed):
        self.inputs = np.random.default_rng(seed).normal(size=(500, 3))
        self.outputs = self.inputs @ TRUE

    def gradient(self, weights):
        return 2 * self.inputs.T @ (self.inputs @ weights - self.outputs) / len(self.inputs)

    def where(self):
        return ray.get_runtime_context().get_node_id(), os.path.basename(sys.prefix)


spark = SparkSession.builder.master(sys.argv[1]).appName("fit").getOrCreate()
try:
    setup_ray_cluster(
        max_worker_nodes=2, num_cpus_worker_node=1, num_gpus_worker_node=0, num_cpus_head_node=0,
        memory_worker_node=400 * MIB, object_store_memory_worker_node=100 * MIB,
        memory_head_node=400 * MIB, object_store_memory_head_node=100 * MIB,
        head_node_options={"include_dashboard": False}, ray_temp_root_dir=os.environ["RAY_ROOT"],
    )  # fmt: skip
    ray.init()
    workers = [Worker.remote(seed) for seed in range(2)]
    places = ray.get([worker.where.remote() for worker in workers], timeout=120)
    nodes, names = map(set, zip(*places, strict=True))
    print(f"{len(workers)} workers on {len(nodes)} Ray nodes, environment {', '.join(names)}")
    parameters = Parameters.remote()
    began, weights = time.monotonic(), parameters.push.remote(np.zeros(3))
    for _ in range(ROUNDS):
        weights = parameters.push.remote(*[worker.gradient.remote(weights) for worker in workers])
    print("weights:", " ".join(f"{weight:.2f}" for weight in ray.get(weights, timeout=120)))
    print(f"{ROUNDS} rounds took {time.monotonic() - began:.1f} s")
    ray.shutdown()
finally:
    shutdown_ray_cluster()
    spark.stop()
