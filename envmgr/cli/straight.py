"""The straight way of ``envmgr run X -- COMMAND…`` into an environment that is ready.

The words have no option but ``--``, and the environment is there: then nothing is needed that costs start-up. For
everything else, every error included, `run` returns, and the long way (`envmgr.cli.commands.run`) does it or tells why
not: there is one place for messages, and none of it is done twice but the look.
"""

import os
import signal
import sys

from envmgr import activation, client, ready
from envmgr.errors import EnvmgrError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


def run(words: "Sequence[str]") -> None:
    """Become the command that `words` (those behind ``run``) name, or return where that is not straight ahead."""
    if len(words) < 3 or words[1] != "--" or words[0].startswith("-"):
        return
    try:
        lease = find(ready.default_root(), words[0])
        if lease is None:
            return
        try:
            become(words[2:], lease)
        finally:
            lease.close()
    except (EnvmgrError, OSError):
        return
    except KeyboardInterrupt:
        sys.exit(128 + 2)


def find(root: str, word: str) -> "ready.Lease | None":
    """Return the environment of a word, leased, or ``None`` where it has to be made or is not there."""
    if not client.is_file(word):
        return ready.acquire(root, word)
    if client.is_text(word):  # a file's name here, even with a line feed in it
        return None
    text, _ = client.read(word)
    seen = None if text is None else ready.seen_name(root, ready.text_key(text))
    return None if seen is None else ready.acquire(root, seen)


def become(command: "Sequence[str]", lease: "ready.Lease") -> "NoReturn":
    """Replace this process by a program that is searched on the environment's PATH, and that holds the lease.

    `OSError` where it cannot be executed, `Corrupt` where the environment's variables are not known.
    """
    environ = activation.apply(activation.of_build(lease.build_dir, lease.name), os.environ)
    lease.bequeath()
    # Python ignores these two, and what is ignored stays ignored in the program that follows.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    if not command[0]:
        raise FileNotFoundError
    os.execvpe(command[0], list(command), environ)  # noqa: S606 - no shell is the point
