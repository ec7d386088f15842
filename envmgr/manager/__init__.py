"""The use cases, each written as the sequence that it is; the only place that orders lock, look, build and publish.

Everything outside is behind a port (`envmgr.ports`) or the store (`envmgr.store`). `envmgr.manager.manager.Manager` is
the front: the same verbs that the library and the command line use. It is not imported here, because listing what is
ready needs none of what builds.
"""
