"""Flask: a clock that continues after the last event that a client got. Run it with

gunicorn --worker-class gthread --threads 50 --chdir examples flask_clock:app
"""

import time
from collections.abc import Iterator

from flask import Flask, Response, request, stream_with_context

from ssemiddleware import Event, SSEMiddleware

app = Flask(__name__)


@app.get("/clock")
def clock() -> Response:
    """Send the time each second, numbered."""
    stream = request.environ["ssemiddleware.stream"]

    def produce() -> Iterator[bytes]:
        number = int(stream.last_event_id or 0)
        while True:
            number += 1
            yield bytes(Event(time.strftime("%H:%M:%S"), event="tick", id=str(number)))
            if stream.closing.wait(1.0):  # instead of sleep: the client is gone, or the server stops
                return

    return Response(stream_with_context(produce()), mimetype="text/event-stream")


app.wsgi_app = SSEMiddleware(app.wsgi_app)  # type: ignore[method-assign]
