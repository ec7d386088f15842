"""Starts a builder: ``python -I .../envmgr/builder/__main__.py EVENTS_FD LEASE_FD PARENT_PID``, by its path.

The interpreter is isolated, so an envmgr that the parent found through PYTHONPATH or by a script's own directory is not
importable here. `_be_importable` makes it so: this very installation, as the package ``envmgr``, and after all places
of the interpreter's own, those of the parent for what envmgr needs (`envmgr.backends.spawner.PATH_VARIABLE`).
"""

import importlib.util
import json
import os
import sys


def _be_importable() -> None:
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path += [place for place in json.loads(os.environ.get("ENVMGR_BUILDER_PATH", "[]")) if place not in sys.path]
    spec = importlib.util.spec_from_file_location(
        "envmgr", os.path.join(root, "__init__.py"), submodule_search_locations=[root]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"no package in {root}")
    package = importlib.util.module_from_spec(spec)
    sys.modules["envmgr"] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    _be_importable()
    from envmgr.builder.process import main

    main(sys.argv[1:])
