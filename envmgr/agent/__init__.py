"""The loop of one host: what the cluster wants of it, done; and who it is, and how it does, told."""
