"""The store of one host: its layout on disk, publication, locks, leases, records, sweep and usage.

Everything that changes the store's state goes through `envmgr.fsio`. The order of the calls is the manager's business;
what each single call promises stands in its docstring.
"""
