"""A page whose EventSource is a polyfill, which sends its last event ID in the query; each stream ends after one event."""

from __future__ import annotations

from flask import Flask, Response, request

from ssemiddleware import Event, SSEMiddleware

PAGE = """<!doctype html>
<title>Polyfill</title>
<script src="https://cdn.jsdelivr.net/npm/event-source-polyfill@1.0.31/src/eventsource.min.js"></script>
<p id="events"></p>
<script>
const source = new EventSourcePolyfill("/numbers");
source.onmessage = event => { document.querySelector("#events").textContent += event.data + " "; };
</script>
"""

app = Flask(__name__)


@app.get("/")
def page() -> str:
    return PAGE


@app.get("/numbers")
def numbers() -> Response:
    assert "Last-Event-ID" not in request.headers
    number = int(request.environ["ssemiddleware.stream"].last_event_id or 0) + 1
    return Response([bytes(Event(str(number), id=number, retry=10))], mimetype="text/event-stream")


app.wsgi_app = SSEMiddleware(app.wsgi_app, last_event_id_parameter="lastEventId")  # type: ignore[method-assign]
