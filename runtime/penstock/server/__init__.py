"""The HTTP server: gunicorn's processes, with a worker that no client can hold up.

Nothing below this package imports gunicorn.
"""
