"""Counts in an executor whose Python, humanize included, comes from the archive."""

import os
import sys

from pyspark import SparkContext


def count(numbers):
    import humanize

    how = "leased" if "_envmgr_lease" in sys.modules else "without envmgr"
    return [f"{humanize.intword(sum(numbers))} in {os.path.relpath(sys.prefix)}, {how}"]


spark = SparkContext(appName="report")
print(*spark.parallelize(range(4_000_000), 1).mapPartitions(count).collect())
spark.stop()
