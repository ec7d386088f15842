"""Programs that run to their end in an environment, within limits: what ``envmgr.run`` and ``envmgr run`` do.

================ ======================================================================================================
`limits`         what is asked for, and what came of it: two frozen records
`slots`          how many instances run on this host, and on which CPUs: locks that the kernel gives back
`supervisor`     the process between the caller and a limited program
`supervising`    the caller's half of it
`tree`           the processes below one: what they use, and their end
`running`        the order of it all
================ ======================================================================================================

Nothing is imported here: the supervisor, too, is of this package, and has to be there in milliseconds.
"""
