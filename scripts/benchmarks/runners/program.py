"""What it costs to start a program by ``envmgr run``, and within limits."""

from __future__ import annotations

from functools import partial

from benchmarks.measuring import Figure, Rounds, in_turn
from benchmarks.workspace import Workspace

_MS = 1e-3
_CALL = (
    "import sys, envmgr;"
    "limits = envmgr.Limits(memory_bytes=1 << 30, cores=1) if sys.argv[3:] else None;"
    "done = envmgr.run(sys.argv[1], ['python', '-c', 'pass'], root=sys.argv[2], limits=limits); sys.exit(done.status)"
)


def starting(work: Workspace, *, is_quick: bool) -> list[Figure]:
    """Compare ``envmgr run`` and `envmgr.run`, with limits and without, with the interpreter started by itself."""
    environ = work.environ(work.store)
    python = work.store / "envs" / work.name / "bin" / "python"
    run = [work.bin / "envmgr", "run", work.name]
    program = ["python", "-c", "pass"]
    library = [work.python, "-c", _CALL, work.name, work.store]
    rounds = Rounds(9 if is_quick else 41, 5, 25)
    plain, limited, called, called_limited, bare = in_turn(
        rounds,
        [
            partial(work.time, [*run, "--", *program], environ),
            partial(work.time, [*run, "--memory", "1GiB", "--cores", "1", "--", *program], environ),
            partial(work.time, library, environ),
            partial(work.time, [*library, "limited"], environ),
            partial(work.time, [python, *program[1:]], environ),
        ],
    )
    what = "<env>/bin/python -c pass"
    return [
        Figure("run", "envmgr run X -- python -c pass", plain, "difference", bare, what, 50 * _MS),
        Figure("run", "the same with --memory --cores", limited, "difference", bare, what),
        Figure("run", "envmgr.run in a fresh process", called, "difference", bare, what),
        Figure("run", "the same with Limits", called_limited, "difference", bare, what),
    ]
