"""What it costs a Ray worker to start in a managed environment, against the same interpreter by its path."""

from __future__ import annotations

import json
import tempfile

import example_site

from benchmarks.measuring import Figure, Spread
from benchmarks.workspace import Workspace

_MS = 1e-3
_ROUNDS = 5  # of one cluster: a few, so that a busy machine is within the time limit of one program


def starting(work: Workspace, *, is_quick: bool) -> list[Figure]:
    """Start workers in the site's own environment, which has Ray: by name, and by ``py_executable``.

    A start takes a second, nearly all of it for importing Ray, and differs by a tenth of that from the next one: the
    second of two equal sides tells how much of a difference is noise, and the plugin's own part how much is not.
    """
    store = work.new_store("ray-settings", work.channel)
    settings = (store / "settings.toml").read_text(encoding="utf-8")
    site = example_site.prepare(work.run.parent / "site", settings)
    with site.environment as environment, tempfile.TemporaryDirectory(prefix="envmgr-") as short:
        variables = site.variables(root=work.run.parent / "site" / "store", home=work.home)
        variables["RAY_RUNTIME_ENV_PLUGINS"] = '[{"class": "envmgr.runners.ray.EnvmgrPlugin"}]'
        bare = {"py_executable": str(environment.prefix / "bin" / "python")}
        asked = [{"envmgr": "site"}, bare, bare]
        taken: list[list[float]] = [[] for _ in (*asked, "plugin")]
        program = [site.python, *work.program("runners/ray_workers", short, str(_ROUNDS), json.dumps(asked))[2:]]
        for _ in range(1 if is_quick else 5):
            for side, values in zip(taken, json.loads(work.output(program, variables)), strict=True):
                side.extend(values)
    managed, path, again, plugin = (Spread(tuple(values)) for values in taken)
    by_path = "py_executable: its path"
    return [
        Figure("ray", "start of a Ray worker, envmgr: name", managed, "difference", path, by_path, goal=50 * _MS),
        Figure("ray", "start of a Ray worker, envmgr: name", managed, "ratio", path, by_path),
        Figure("ray", "of it, what the plugin does", plugin),
        Figure("ray", "noise: py_executable", again, "difference", path, by_path),
    ]
