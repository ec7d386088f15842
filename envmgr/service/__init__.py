"""envmgr as a systemd service of a host: its units, and how it is installed, upgraded, looked at and removed.

::

    /opt/envmgr/                             the prefix (``--prefix``)
      versions/<version>-<n>/                one installation, never changed again: bin/, lib/, and python/ where the
                                             interpreter that runs this lies where the service's user cannot start it
      current -> versions/<version>-<n>      switched in one step; what runs keeps the version that it was started from
    /etc/systemd/system/envmgr.service, envmgr.socket
    /etc/sysusers.d/envmgr.conf              the user ``envmgr`` and the groups
    /etc/envmgr/settings.toml                every setting as a comment; never overwritten
    /usr/local/bin/envmgr, envmgr-python     links through ``current``
    /var/lib/envmgr                          the store, made by the service itself
    /run/envmgr/envmgr.sock                  made by the socket unit

Installing twice is upgrading. Nothing is downloaded: the packages of the installation that runs this are copied.
Not promised: other init systems, or more than one service per host.
"""
