"""What an activation adds for a worker of Ray whose environment has no Ray.

Ray's own field ``conda`` starts a worker in an environment that was given by its name with::

    bash -c ". <home>/bin/../etc/profile.d/conda.sh && conda activate N 1>&2 && exec python
             <site-packages>/ray/_private/workers/default_worker.py …"

Where that Python cannot import ray, the worker ends before it can say so, and Ray starts it again and waits for ever.
So an activation in such a shell puts the Ray whose worker it is behind the environment's own packages, as
`envmgr.runners.ray` does. Not promised: an environment with another minor version of Python, or with packages that this
Ray cannot work with; nothing that is said here reaches Ray's user.

Source: ray/_private/runtime_env/context.py and conda.py of Ray 2.60.
"""

import os

from envmgr.activation import quoted

_OVERLAY = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "ray", "overlay")
_WORKER = "/ray/_private/workers/default_worker.py"


def overlay(prefix: str) -> str:
    """Return shell text that puts Ray behind the packages of `prefix`, where a Ray worker is about to start there."""
    packages = _packages(_shell())
    if not packages:
        return ""
    from pathlib import Path  # noqa: PLC0415 - other activations do without

    from envmgr.runners import installed  # noqa: PLC0415

    if installed.of_prefix(Path(prefix)).version("ray") is not None:
        return ""
    minor = os.path.basename(os.path.dirname(packages)).removeprefix("python")
    return (
        f"export ENVMGR_RAY_OVERLAY={quoted(f'{minor}:{packages}')}\n"
        f'PYTHONPATH={quoted(_OVERLAY)}"${{PYTHONPATH:+:$PYTHONPATH}}"\nexport PYTHONPATH\n'
    )


def _shell() -> str:
    """Return the command line of the shell that asks, or nothing where it cannot be read."""
    try:
        with open(f"/proc/{os.getppid()}/cmdline", "rb") as file:
            return os.fsdecode(file.read(1 << 16))
    except OSError:
        return ""


def _packages(command: str) -> str:
    """Return the site-packages of the Ray whose worker a command line starts, or nothing."""
    before, worker, _ = command.partition(_WORKER)
    return before.rpartition(" ")[2].lstrip("'") if worker else ""
