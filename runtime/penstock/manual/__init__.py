"""The pages of `docs/`, as they ship with this version: find, list and search them."""
