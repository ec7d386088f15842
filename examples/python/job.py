"""A standalone program: it knows nothing of envmgr, and writes as it goes."""

import importlib.metadata
import sys
import time

from tabulate import tabulate

for step in range(3):
    print(f"step {step}", flush=True)
    time.sleep(0.1)
print(tabulate([["tabulate", importlib.metadata.version("tabulate")]], tablefmt="plain"))
sys.exit(int(sys.argv[1]))
