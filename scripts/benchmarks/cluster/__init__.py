"""What a cluster costs: simulated agents against real ZooKeeper servers, and what agreeing costs a build.

Bottom up:

- `jute`: ZooKeeper's protocol, as much of it as agents speak, in both directions.
- `thin`: thousands of sessions on one event loop.
- `tap`: a proxy that writes down what a real host says to ZooKeeper.
"""
