"""A Spark driver that times jobs, each on a daemon of its own: ROUNDS PYTHON...; prints seconds by interpreter."""

from __future__ import annotations

import json
import sys
import time

from pyspark import SparkContext

LEAST, BUDGET_S = 3, 40


def main(rounds: int, pythons: list[str]) -> None:
    """Run one job with each interpreter in every round, another one first each time; fewer where they take long."""
    spark = SparkContext("local[1]", "jobs")
    taken: list[list[float]] = [[] for _ in pythons]
    start = time.monotonic()
    for number in range(-1, rounds):  # the first round is the JVM's
        if number >= LEAST and time.monotonic() - start > BUDGET_S:
            break
        for step in range(len(pythons)):
            side = (number + step) % len(pythons)
            spark.pythonExec = pythons[side]
            spark.environment["BENCH_JOB"] = f"{number}-{side}"  # other variables, another daemon
            began = time.perf_counter()
            spark.parallelize([1], 1).map(abs).collect()
            if number >= 0:
                taken[side].append(time.perf_counter() - began)
    spark.stop()
    print(json.dumps(taken))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
