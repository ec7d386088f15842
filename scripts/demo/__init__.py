"""Makes a small conda channel on disk from this machine's interpreters and from wheels.

The quickstart and the tests need a channel that works without a conda installation and without a conda server. The
layers, each using only those before it:

- `packages`: put files into a ``.conda`` package; write a channel's index.
- `interpreter`: say what an interpreter is made of, or why it cannot become a package.
- `wheels`: fetch wheels for one python version, say what conda package each becomes.
- `staging`: the child process that fills the prefix of a package while it is built.
- `channel`: all of the above in the order that survives an interruption.
"""

import datetime as dt

EPOCH = dt.datetime(2024, 1, 1, tzinfo=dt.timezone.utc)
"""The time of every package and of every file in it, so that a package made again has the same hash."""
