"""A Django project of one view under GZipMiddleware, which keeps small events back until its buffer is full.

Django's settings belong to the process: where something else has configured them, they stay as they are, and this
module answers only if they name it as ROOT_URLCONF (in tests: `override_settings`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, StreamingHttpResponse
from django.urls import path

from ssemiddleware.demo.ticks import ticks

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


def create_django_app() -> WSGIApplication:
    """Configure Django unless that is done, and return its WSGI application."""
    if not settings.configured:
        settings.configure(
            ALLOWED_HOSTS=["*"],
            MIDDLEWARE=["django.middleware.gzip.GZipMiddleware"],
            ROOT_URLCONF=__name__,
        )
    application: WSGIApplication = get_wsgi_application()
    return application


def ticker(request: HttpRequest) -> StreamingHttpResponse:
    """An event a second."""
    return StreamingHttpResponse(ticks(request.environ), content_type="text/event-stream")


urlpatterns = [path("ticker", ticker)]
