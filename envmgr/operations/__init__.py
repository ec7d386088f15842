"""What takes a while, for many callers: the fair queue, one flight per name, and the progress that all can follow."""

from envmgr.operations.flight import HANDOVER_S, Flight, Leased, Work, identity
from envmgr.operations.journal import JournalEntry
from envmgr.operations.operations import Operations

__all__ = ["HANDOVER_S", "Flight", "JournalEntry", "Leased", "Operations", "Work", "identity"]
