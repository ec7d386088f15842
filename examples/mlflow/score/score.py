"""Another project: its environment is written in other words, and is the same."""

import os

import humanize

print("scored", humanize.naturalsize(2_000_000), "in", os.environ["CONDA_DEFAULT_ENV"])
