"""The frozen values that cross the line between the runtime and its plugins.

No framework in them.
"""
