"""What a cluster costs: simulated hosts against real ZooKeeper servers, and what agreeing costs a build.

Bottom up:

- `jute`: ZooKeeper's protocol, as much of it as hosts speak, in both directions.
- `traffic`: counts, bytes, and the list of one host's operations.
- `thin`, `session`: thousands of sessions on one event loop, and the verbs of the real session on them.
- `tap`: a proxy that writes down what a real host says to ZooKeeper.
- `administering`, `daemons`: the real administrator, and real hosts whose builds sleep; `declaring` is a program.
- `hosts`: a simulated host. It has to be changed with the agent; `comparing` says so, in every run.
- `growth`: how a cost grows, judged, and the picture of it.
- `scaling`, `coordinating`: what is measured.
"""
