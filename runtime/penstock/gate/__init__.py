"""Compile what a pipeline's calls must present, and let one call through or say why not."""
