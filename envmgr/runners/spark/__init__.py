"""Spark: settings with which its executors run Python inside an environment."""
