"""Runs are recorded, counted and redacted, and no call waits for the database meanwhile."""
