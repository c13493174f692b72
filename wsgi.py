"""gunicorn wsgi:app: the application, built from the environment."""

from penstock import web

app = web.from_environment()
