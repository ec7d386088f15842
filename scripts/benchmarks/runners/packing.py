"""What ``envmgr pack`` costs: an archive made, and the same asked for again."""

from __future__ import annotations

import shutil
from functools import partial

from benchmarks.measuring import Figure, Rounds, Spread, in_turn
from benchmarks.workspace import Workspace

_MS = 1e-3


def packing(work: Workspace, *, is_quick: bool) -> list[Figure]:
    """Time whole processes: cold against conda-pack over the same prefix, kept against asking for the same name."""
    environ = work.environ(work.store)
    out = work.run / "packed.tar.gz"
    pack = [work.bin / "envmgr", "pack", work.name, "--quiet", "-o", out]
    bare = work.run / "bare.tar.gz"
    # Also in the archive: byte-code, which conda-pack leaves out.
    conda_pack = [work.bin / "conda-pack", "--prefix", work.prefix, "--output", bare, "--force", "--quiet"]
    threads = ["--n-threads", "-1"]

    def cold() -> float:
        shutil.rmtree(work.store / "packs", ignore_errors=True)
        return work.time(pack, environ)

    rounds = Rounds(3 if is_quick else 7, 3, 40)
    made, by_conda_pack = in_turn(rounds, [cold, partial(work.time, [*conda_pack, *threads], environ)])
    rounds = Rounds(15 if is_quick else 61, 5, 15)
    kept, asked = in_turn(
        rounds,
        [
            partial(work.time, pack, environ),
            partial(work.time, [work.bin / "envmgr", "shell-hook", work.name], environ),
        ],
    )
    facts = {"archive_bytes": out.stat().st_size, "conda_pack_bytes": bare.stat().st_size}
    what = "envmgr shell-hook X, which is leased and printed"
    return [
        Figure("pack", "envmgr pack X, cold", made, "ratio", by_conda_pack, "conda-pack, all threads", facts=facts),
        Figure("pack", "envmgr pack X, kept", kept, "difference", asked, what, goal=50 * _MS),
        Figure("pack", "the same, the whole process", Spread(kept.values)),
    ]
