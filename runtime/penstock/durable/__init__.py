"""Durable runs survive their process: input, steps and outcome are stored by an engine."""
