"""gunicorn wsgi:app: the application, built from the environment."""

from penstock.wsgi import app

__all__ = ["app"]
