"""Adapters to the tools that make a prefix: rattler, uv, the prefix's own interpreter; the builder calls them."""
