"""``python -m envmgr``: the command line."""

import sys

from envmgr.cli import main

if __name__ == "__main__":
    sys.exit(main())
