"""The child's main: one request in, one prefix (or one error) out, then the process ends.

`envmgr.backends.spawner` starts it, by the path of ``__main__.py``. Nothing else imports it.
"""
