"""For ``flask run`` and Django's ``runserver``: the application under test in the place of theirs. Settings, for the latter."""

from flask import Flask

from .applications import app_with_a_heartbeat_a_second

flask = Flask(__name__)
flask.wsgi_app = app_with_a_heartbeat_a_second  # type: ignore[method-assign]

ALLOWED_HOSTS = ["*"]
DEBUG = True
SECRET_KEY = "live"
ROOT_URLCONF = __name__
urlpatterns: list[object] = []
WSGI_APPLICATION = "live.applications.app_with_a_heartbeat_a_second"
