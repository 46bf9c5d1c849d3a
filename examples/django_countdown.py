"""Django under WSGI, in one file: a countdown behind GZipMiddleware. Run it with

gunicorn --worker-class gthread --threads 50 --chdir examples django_countdown:application
"""

from collections.abc import Iterator

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, StreamingHttpResponse
from django.urls import path

from ssemiddleware import Event, SSEMiddleware

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["*"], MIDDLEWARE=["django.middleware.gzip.GZipMiddleware"], ROOT_URLCONF=__name__, SECRET_KEY="example"
    )


def countdown(request: HttpRequest) -> StreamingHttpResponse:
    """Count from 5 down to 1, one a second."""
    stream = request.environ["ssemiddleware.stream"]

    def produce() -> Iterator[bytes]:
        for number in range(5, 0, -1):
            yield bytes(Event(str(number)))
            if stream.closed.wait(1.0):
                return

    return StreamingHttpResponse(produce(), content_type="text/event-stream")


urlpatterns = [path("countdown", countdown)]
application = SSEMiddleware(get_wsgi_application())
