"""A real daemon with real builders under random requests and faults: ``scripts/soak``.

- `contract`: requests made up from the daemon's OpenAPI document, before anything befalls it.
- `place`: the directory of one run: a channel, a store, its daemon, and everything that was started there.
- `clients`: what callers do: ensure, hang up, use, remove, cancel, collect, ask nonsense.
- `faults`: what befalls: SIGKILL of the daemon and of builders, SIGTERM, SIGHUP.
- `checking`: what must hold when everybody has gone: every environment is absent or whole, and nothing is left running
  or held.
- `cluster`: five hosts, ZooKeeper's servers, and what befalls those (``--only cluster``).

A run is rounds until its time is up. In a round, several clients and the faults work at once; then the clients are
gone, the daemon is there (again), and the checker looks. The seed decides what is done and by whom; in which order
threads and processes come to it is the machine's, so a seed repeats a run's choices, not every interleaving.
"""
