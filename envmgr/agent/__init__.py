"""The loop of one host: what the cluster wants here becomes what is here."""
