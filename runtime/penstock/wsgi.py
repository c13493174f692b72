"""The application of a server process, built from the environment.

`wsgi.py` at the top hands it to gunicorn.
"""

import os
import sys

from penstock import logs
from penstock.errors import CannotStart
from penstock.host import Host
from penstock.settings import Settings
from penstock.web import create_app

try:
    settings = Settings.from_env(os.environ)
    logs.configure(settings)
    app = create_app(Host(settings))
except CannotStart as error:
    logs.say(str(error), os.environ.get("PENSTOCK_LOG_FORMAT", "auto"))
    sys.exit(error.exit_code)
