"""Counts in tasks of both executors; humanize is in the environment, and neither on the driver nor in Spark."""

import os
import sys

from pyspark import SparkContext

TASKS = 8


def count(numbers):
    import humanize

    return [(os.getppid(), os.path.basename(sys.prefix), humanize.intword(sum(numbers)))]


spark = SparkContext(appName="report")
answers = spark.parallelize(range(4_000_000), TASKS).mapPartitions(count).collect()
executors, environments, sums = map(set, zip(*answers, strict=True))
print(f"{len(answers)} tasks in {len(executors)} executors, environment {', '.join(environments)}")
print("\n".join(sorted(sums)))
spark.stop()
