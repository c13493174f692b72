"""The HTTP server: gunicorn's processes, with a worker class that no client can block.

This package alone imports gunicorn.
"""
