"""What plugs envmgr into the systems that run code: plain programs, Ray, Spark, and all that look for conda.

A package or module per system. All end in the same few calls of `envmgr.client`: ensure (through the daemon where
there is one), lease, activate, execute. A system's library (``ray``, …) is imported only by the modules that the
system itself loads.
"""
