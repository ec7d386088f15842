"""The command line: ``python -m demo DIR [--python EXE]...``; scripts/demo_channel finds the interpreter for it."""

import argparse
import os
import shutil
import sys
import traceback
from pathlib import Path

from demo import channel
from demo.errors import DemoError


def main(arguments: list[str]) -> int:
    """Make the channel; print its URL as the last line on stdout. Exit 1 if it cannot be made."""
    options = _parser().parse_args(arguments)
    # The script in front of this may run it in an environment of its own; the default is what the user started.
    named = options.python or [Path(os.environ.get("DEMO_CHANNEL_PYTHON", sys.executable))]
    try:
        url = channel.create(options.directory, [_find(one) for one in named])
    except DemoError as error:
        print(f"demo_channel: {error}", file=sys.stderr)
        return 1
    print(url)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="demo_channel",
        description="Make a conda channel in DIR from this machine's interpreters and from wheels. "
        "The last line on stdout is its URL.",
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="new, empty, or a channel made before")
    parser.add_argument(
        "--python",
        metavar="EXE",
        type=Path,
        action="append",
        help="an interpreter to make a python package of; may be given several times "
        "(default: the interpreter that runs this)",
    )
    return parser


def _find(executable: Path) -> Path:
    """Return the file behind a bare command such as ``python3.12``, as a shell would find it."""
    found = shutil.which(executable.expanduser())
    if found is None:
        raise DemoError(f"there is no executable {executable}", hint="give --python a path or a command on PATH")
    return Path(found).absolute()


if __name__ == "__main__":
    try:
        exit_code = main(sys.argv[1:])
    except SystemExit as leaving:
        exit_code = leaving.code if isinstance(leaving.code, int) else 2
    except KeyboardInterrupt:
        print("demo_channel: interrupted; the next run on the directory goes on from here", file=sys.stderr)
        exit_code = 130
    except BaseException:  # noqa: BLE001 - nothing may pass by the os._exit below
        traceback.print_exc()
        exit_code = 1
    # rattler's threads may crash an interpreter that ends in the usual way.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
