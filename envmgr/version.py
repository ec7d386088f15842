"""The version, apart from all else, so that every layer and the packaging may read it."""

__version__ = "0.1.0"
