"""The same environment through ray://, for a whole job: the server that Ray starts for this client runs in it, too."""

import os
import sys
from pathlib import Path

import ray

from envmgr.runners.ray import runtime_env


@ray.remote
def count(number):
    import humanize

    return humanize.intword(number), os.path.basename(sys.prefix)


ray.init(sys.argv[1], runtime_env=runtime_env(Path(__file__).with_name("environment.yml")), log_to_driver=False)
print("ray://: {}, in {}".format(*ray.get(count.remote(3_000_000), timeout=120)))
