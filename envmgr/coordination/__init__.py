"""What the hosts of a cluster agree on, and how: the adapters of `envmgr.ports.Coordinator`."""
