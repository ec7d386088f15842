"""The client's side of the daemon's socket: the same verbs as `envmgr.manager.manager.Manager`, asked of the daemon."""
