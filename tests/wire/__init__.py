"""The same bytes to stock gunicorn and to our server: a generator, a client, and what they may
differ in."""
