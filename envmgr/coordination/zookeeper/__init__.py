"""The coordinator of a cluster, over ZooKeeper; the home of kazoo."""
