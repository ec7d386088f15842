"""The use cases, each written as the sequence that it is; the only place that orders lock, look, build and publish.

Everything outside is behind a port (`envmgr.ports`) or the store (`envmgr.store`). `Manager` is the front: the same
verbs that the library and the command line use.
"""

from envmgr.manager.manager import Manager

__all__ = ["Manager"]
