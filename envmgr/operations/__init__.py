"""What takes a while, for many callers: the fair queue, one flight per name, and the progress that all can follow."""
