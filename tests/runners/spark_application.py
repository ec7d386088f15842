"""A Spark application that does what it is told over a socket; started by spark-submit, on the site's Python.

A request names variables that the executors' Python has beside those of the application (Spark starts another daemon
for them), and how many tasks to run; the answer has a row for each task, or the error as a user would see it.
"""

import contextlib
import os
import sys
import time
from multiprocessing.connection import Client
from pathlib import Path

from pyspark.sql import SparkSession
from pyspark.sql.functions import pandas_udf


def observe(hold):
    """Tell where this task runs; with `hold`, first say that it does, and stay until the file ``go`` is there."""
    if hold:
        Path(hold, f"at-{os.getpid()}").touch()
        deadline = time.monotonic() + 60
        while not Path(hold, "go").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
    return {"pid": os.getpid(), "daemon": os.getppid(), "prefix": sys.prefix, "cwd": str(Path.cwd())}


def in_tasks(spark, request):
    """Run tasks on the executors; return a row of each."""
    tasks, hold = request.get("tasks", 2), request.get("hold")
    return spark.sparkContext.parallelize(range(tasks), tasks).map(lambda _: observe(hold)).collect()


def in_pandas(spark, request):
    """Run a UDF of pandas; return where it ran and what it returned."""

    @pandas_udf("string")
    def describe(numbers):
        return numbers.map(lambda number: f"{sys.prefix} {number + 1}")

    tasks = request.get("tasks", 2)
    rows = spark.range(0, tasks, 1, tasks).select(describe("id").alias("said")).collect()
    return [dict(zip(("prefix", "number"), row.said.split(), strict=True)) for row in rows]


def main():
    """Serve requests until the other end closes."""
    spark = SparkSession.builder.appName("told").getOrCreate()
    connection = Client(sys.argv[1], "AF_UNIX")
    variables = spark.sparkContext.environment
    usual = dict(variables)
    connection.send({"pid": os.getpid()})
    with contextlib.suppress(EOFError):
        while True:
            request = connection.recv()
            variables.clear()
            variables.update(usual | request.get("variables", {}))
            try:
                rows = (in_pandas if request.get("pandas") else in_tasks)(spark, request)
            except Exception as error:  # noqa: BLE001 - the test judges it
                connection.send({"error": f"{type(error).__name__}: {error}"})
            else:
                connection.send({"rows": rows})
    spark.stop()


if __name__ == "__main__":
    main()
