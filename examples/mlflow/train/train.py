"""A step of a pipeline: it says how much it has read, and where it runs."""

import os
import sys

import humanize

print("trained on", humanize.intcomma(int(float(sys.argv[1]))), "rows in", os.environ["CONDA_DEFAULT_ENV"])
print("by the environment's own interpreter:", sys.prefix == os.environ["CONDA_PREFIX"])
