"""A cluster of simulated hosts, what befalls it, and the proof that its history was a good one."""
