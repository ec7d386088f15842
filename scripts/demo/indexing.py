"""The child process that writes a channel's index: ``python -m demo.indexing CHANNEL_DIR``.

A process of its own, because rattler's threads may crash an interpreter that ends in the usual way: it leaves with
`os._exit` after its output is flushed.
"""

import asyncio
import os
import sys
import traceback
from pathlib import Path

from rattler.index import index_fs


def main() -> int:
    """Index the channel that the command line names."""
    channel_dir = Path(sys.argv[1]).resolve()
    # force: a package may have been replaced by one of the same name, whose old record would stay otherwise.
    asyncio.run(index_fs(channel_dir, write_zst=True, write_shards=True, force=True))
    return 0


if __name__ == "__main__":
    try:
        exit_code = main()
    except BaseException:  # noqa: BLE001 - nothing may pass by the os._exit below
        traceback.print_exc()
        exit_code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
