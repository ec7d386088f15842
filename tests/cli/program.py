"""The command line with a backend that takes its orders from files: what the tests start as a process."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":
    from fakes.backend import FakeBackend

    from envmgr.cli import run_and_exit

    run_and_exit(backend=FakeBackend(Path(os.environ["FAKE_ORDERS"])))
