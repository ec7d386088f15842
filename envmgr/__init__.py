"""envmgr keeps conda environments on the hosts of a cluster: one name, one build, the same packages everywhere."""

__version__ = "0.1.0"
