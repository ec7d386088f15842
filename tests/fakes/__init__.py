"""Stand-ins for what the manager is written against, and the means to force processes into one exact order."""
