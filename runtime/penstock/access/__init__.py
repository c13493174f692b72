"""Who may call what.

Consumers, keys, tokens, policy versions, and the snapshot of all a gate asks.
"""
