"""Submits two programs at once, each into an environment of its own, and a third that uses too much."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import envmgr

here = Path(__file__).parent
limits = envmgr.Limits(memory_bytes=500 << 20, cores=1, wall_s=60, instances=4, wait_s=30)


def submit(spec, status):
    with open(f"{spec}.log", "w") as log:
        return envmgr.run(here / f"{spec}.yml", ["python", here / "job.py", status], limits=limits, stdout=log)


with ThreadPoolExecutor() as pool:
    runs = {spec: pool.submit(submit, spec, status) for spec, status in (("forecast", "0"), ("report", "5"))}
    for spec, run in runs.items():
        done = run.result()
        print(f"{spec}: exit status {done.status}, {Path(f'{spec}.log').read_text().splitlines()[-1]}")
        print(f"{spec}: {done.wall_s:.2f} s, limits kept by {', '.join(done.mechanisms.values())}")
try:
    envmgr.run(here / "forecast.yml", ["python", "-c", "x = b'x' * (900 << 20); input()"], limits=limits)
except envmgr.LimitExceeded as error:
    print(f"{error.fields['limit']}: {error.message}")
    sys.exit(0)
