"""What one process of envmgr tells another: `pipe` to and from the builder, `socket` to and from the daemon.

Records only, versioned; who sends and who may ask is decided elsewhere.
"""
