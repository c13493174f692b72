"""Endpoints read calls and encode replies as handlers declare, without knowing the server."""
