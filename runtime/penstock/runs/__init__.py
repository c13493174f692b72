"""Run a pipeline: compile its handlers at load, run one for a call. No HTTP server, no SQL."""
