"""The daemon's client: the manager's verbs, asked for over the socket.

`connection` speaks HTTP, `events` reads an operation's events, `following` sees one to its end over broken connections,
`looking` asks what is there, and `manager` puts them under the same verbs as `envmgr.manager.manager`. Nothing here
writes to the store.
"""
