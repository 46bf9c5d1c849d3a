"""Datastar: the server sends pieces of HTML, and Datastar puts each in the place of the element with its id. Run it with

gunicorn --worker-class gthread --threads 50 --chdir examples datastar_clock:app

and open http://127.0.0.1:8000/. Written for 1.0.0-beta.11, the newest version on npm. With 1.0 itself the event is called
``datastar-patch-elements``, its lines begin with ``elements``, and the attribute is ``data-init``.
"""

import time
from collections.abc import Iterator

from flask import Flask, Response, request

from ssemiddleware import Event, SSEMiddleware

PAGE = """<!doctype html>
<title>Clock</title>
<script type="module" src="https://cdn.jsdelivr.net/npm/@starfederation/datastar@1.0.0-beta.11/dist/datastar.js"
  crossorigin="anonymous" integrity="sha384-Rc4TeTKWyMBM8JpUWyyzU6iisGnyzT/TYkg3pg5eErVm1YIau+UC7m3zqXgdcgTi"></script>
<main data-on-load="@get('/clock')"><p id="clock">...</p></main>
"""

app = Flask(__name__)


@app.get("/")
def page() -> str:
    """Show the page."""
    return PAGE


@app.get("/clock")
def clock() -> Response:
    """Send the time each second."""
    stream = request.environ["ssemiddleware.stream"]

    def times() -> Iterator[bytes]:
        yield merge(f'<p id="clock">{time.strftime("%H:%M:%S")}</p>')
        while not stream.closing.wait(1):  # in place of time.sleep(1)
            yield merge(f'<p id="clock">{time.strftime("%H:%M:%S")}</p>')

    return Response(times(), mimetype="text/event-stream")


def merge(html: str) -> bytes:
    """Return an event that has Datastar show this HTML."""
    return bytes(Event("\n".join(f"fragments {line}" for line in html.splitlines()), event="datastar-merge-fragments"))


app.wsgi_app = SSEMiddleware(app.wsgi_app)  # type: ignore[method-assign]
