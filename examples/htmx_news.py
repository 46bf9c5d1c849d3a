"""htmx with its SSE extension: each event is a piece of HTML, and htmx puts it into the page. Run it with

gunicorn --worker-class gthread --threads 50 --chdir examples htmx_news:app

and open http://127.0.0.1:8000/.
"""

from collections.abc import Iterator

from flask import Flask, Response, request
from markupsafe import escape

from ssemiddleware import Event, SSEMiddleware

PAGE = """<!doctype html>
<title>News</title>
<script src="https://cdn.jsdelivr.net/npm/htmx.org@4.0.1/dist/htmx.min.js" crossorigin="anonymous"
  integrity="sha384-Qp9rdC8H7EqOoX+nR0P3RPG2Noji+qdwJlGpfzwQJsfOpp3sGwIdSP9xO3+UlEhn"></script>
<script src="https://cdn.jsdelivr.net/npm/htmx.org@4.0.1/dist/ext/hx-sse.min.js" crossorigin="anonymous"
  integrity="sha384-v8HvucQ+ohQhMg0arboXc5049yNR46QKMjphs7YDch+Wm7zpfK5XVS01f26mQDJV"></script>
<ul hx-sse:connect="/news" hx-swap="beforeend"></ul>
"""

app = Flask(__name__)


@app.get("/")
def page() -> str:
    """Show the page."""
    return PAGE


@app.get("/news")
def news() -> Response:
    """Send an item each second, from where the page was cut off."""
    stream = request.environ["ssemiddleware.stream"]

    def items() -> Iterator[bytes]:
        number = int(stream.last_event_id or 0)
        while not stream.closing.wait(1 if number else 0):
            number += 1
            text = f"Item {number}: 1 < 2"
            yield bytes(Event(f"<li>{escape(text)}</li>", id=number))

    return Response(items(), mimetype="text/event-stream")


app.wsgi_app = SSEMiddleware(app.wsgi_app)  # type: ignore[method-assign]
