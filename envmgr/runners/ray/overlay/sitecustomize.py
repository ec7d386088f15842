"""Put the cluster's Ray behind the packages of the environment that this interpreter belongs to.

`envmgr.runners.ray.plugin` puts this directory on the PYTHONPATH of workers whose environment has no Ray, and tells in
ENVMGR_RAY_OVERLAY where the cluster's is: ``<minor version>:<site-packages>``. Appended, so that whatever the
environment has wins; inherited, so that the programs that a worker starts (the entrypoint of a submitted job) find Ray,
too. Another Python that inherits the variables is left alone. A sitecustomize that this one hides is run.
"""

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec


def _overlay() -> None:
    minor, _, packages = os.environ.get("ENVMGR_RAY_OVERLAY", "").partition(":")
    if packages and minor == f"{sys.version_info[0]}.{sys.version_info[1]}" and packages not in sys.path:
        sys.path.append(packages)


def _run_hidden() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    spec = PathFinder.find_spec("sitecustomize", [path for path in sys.path if os.path.abspath(path) != here])
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(module_from_spec(spec))


_overlay()
_run_hidden()
