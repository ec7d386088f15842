"""The cluster as a whole: intent, what hosts say of it, and what administrators do; on a ZooKeeper session."""
