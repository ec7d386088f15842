"""Text that activates an environment in the shell which evaluates it, or takes it back.

As conda does, an environment that is active is left before another one is entered. What an activation replaces is kept
in variables of the shell (``_envmgr_old_…``, not exported), so a shell that inherited an activation leaves it without
getting the values from before back. Environments of other programs are left as they are.

The lease ends with the shell, not with ``deactivate``: programs that were started meanwhile may live on.
"""

import os

from envmgr import activation, ready
from envmgr.errors import EnvmgrError, UsageError
from envmgr.runners import shell
from envmgr.runners.condahome import ray_workers
from envmgr.runners.condahome.program import Home, lease_of, word_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_SHELLS = ("posix", "sh", "dash", "bash", "zsh", "ksh", "ash")


def text(home: Home, command: str, arguments: "list[str]") -> str:
    """Return the text of ``shell.<shell> hook|activate|deactivate …``."""
    if command.removeprefix("shell.") not in _SHELLS:
        raise UsageError(f"there is no {command}", hint=f"shell.posix serves {', '.join(_SHELLS)}")
    verb, words = arguments[0] if arguments else "", [it for it in arguments[1:] if it not in ("--no-stack", "--")]
    if verb == "hook":
        return f". {activation.quoted(f'{home.path}/etc/profile.d/conda.sh')}\n"
    # Not even help is printed: a shell evaluates whatever is.
    if verb not in ("activate", "deactivate") or len(words) > 1 or any(it.startswith("-") for it in words):
        raise UsageError(f"conda {verb} {' '.join(words)} is not known here", hint="conda activate NAME; conda --help")
    if verb == "deactivate":
        return left(home, os.environ)
    # There is nothing in the base: whoever activates it wants the function, or the way back.
    if not words or words[0] == "base":
        return left(home, os.environ)
    return left(home, os.environ) + _entered(home, words[0])


def _entered(home: Home, word: str) -> str:
    lease = lease_of(home, word)
    try:
        changes = activation.of_build(lease.build_dir, lease.name)
        kept = "".join(
            f'[ -z "${{{key}+x}}" ] || _envmgr_old_{key}=${key}\n'
            for op, key, _ in changes
            if op in ("set", "unset") and key.isidentifier() and key.isascii()
        )
        held = shell.lease_script(lease.build_id, ready.lease_path(lease.root, lease.build_id))
        return kept + held + activation.script(changes) + ray_workers.overlay(lease.prefix)
    finally:
        lease.close()


def left(home: Home, environ: "Mapping[str, str]") -> str:
    """Return text that takes back what the active environment of this store, if there is one, has changed."""
    prefix = environ.get("CONDA_PREFIX")
    if not prefix or word_of(home.root, prefix) is None:
        return ""
    real = os.path.realpath(prefix)
    try:
        changes = activation.of_build(os.path.dirname(os.path.dirname(real)), os.path.basename(real))
    except EnvmgrError:
        return ""  # its files are gone: there is no telling what it changed
    lines = []
    for op, key, value in changes:
        if not (key.isidentifier() and key.isascii()):
            continue
        if op in ("set", "unset"):
            lines += [
                f'if [ -n "${{_envmgr_old_{key}+x}}" ]; then',
                f"{key}=$_envmgr_old_{key}",
                f"export {key}",
                f"unset _envmgr_old_{key}",
                f"else\nunset {key}\nfi",
            ]
        elif key in environ:
            gone = value.split(":")
            rest = ":".join(entry for entry in environ[key].split(":") if entry not in gone)
            lines += [f"{key}={activation.quoted(rest)}", f"export {key}"] if rest else [f"unset {key}"]
    return "".join(f"{line}\n" for line in lines)
