"""Who may call what: consumers, keys, tokens, policy versions, and the snapshot of all a gate asks."""
