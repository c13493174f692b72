"""Access data: consumers, keys, tokens, policy versions, and the snapshot that gates read.

Every change is one transaction with one revision and one audit event.
"""
