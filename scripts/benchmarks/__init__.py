"""The figures of envmgr's cost, side by side in one run: ``scripts/bench``.

Bottom up:

- `measuring`: spreads, figures, the interleaved rounds, one timed process.
- `workspace`: the directory of one run, its channels and stores, and every process that it starts.
- `fabricating`, `bare`, `calls`, `waiters`, `instant`: programs that run in processes of their own; so can `asking`.
- `throttle`: a channel over HTTP that sends slowly.
- `starting`, `creating`, `sharing`, `serving`: what is measured, by what it costs: starts of processes; builds; many at
  once; the daemon.
- `cluster`: many hosts under ZooKeeper; ``--plot`` draws how their costs grow.
- `report`: the tables and the JSON.

How it is measured. What is compared is run in turn, one of each in a round, the first one changing with the round; the
result is the median of the rounds' own differences or ratios, so that a load that comes and goes meets both sides.
Before whatever ends with a sync, everything that others have written is synced first, outside the time. Nothing is left
out and nothing is run again; a figure that misses its goal is printed as missed. What is not controlled: other users of
the machine, the processor's clock, and the page cache, which is warm also where a package cache is called cold.
"""
