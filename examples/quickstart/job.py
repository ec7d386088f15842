"""A job as an engineer would submit it: it knows nothing of envmgr, it just uses the packages of its environment."""

import platform
import sys

import numpy as np
import requests
from rich.console import Console
from rich.table import Table

table = Table("what", "value", title="a job in its environment")
table.add_row("python", platform.python_version())
table.add_row("prefix", sys.prefix)
table.add_row("numpy", f"{np.__version__}: the sum of 0..9 is {np.arange(10).sum()}")
table.add_row("requests", requests.__version__)
Console(width=160).print(table)
