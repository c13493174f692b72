"""Evaluate pipelines against policies, and accept or reject one call; every doubt closes a gate."""
