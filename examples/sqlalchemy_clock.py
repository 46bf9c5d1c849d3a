"""Flask and SQLAlchemy: a stream borrows a connection for each event, and holds none in between. Run it with

gunicorn --worker-class gthread --threads 50 --chdir examples sqlalchemy_clock:app
curl -N http://127.0.0.1:8000/clock

A stream may last for hours. One that kept its connection would soon have taken the whole pool, which has two here, and every
other page would wait. ``DATABASE_URL`` names the database. Needs ``pip install flask sqlalchemy``.
"""

import os
from collections.abc import Iterator

from flask import Flask, Response, request
from sqlalchemy import create_engine, text

from ssemiddleware import Event, SSEMiddleware

app = Flask(__name__)
url = os.environ.get("DATABASE_URL", "sqlite:///example.sqlite3")
engine = create_engine(url, pool_size=2, max_overflow=0, pool_timeout=5)


def time_of_database() -> str:
    """Ask the database; the connection is given back at the end of the block."""
    with engine.connect() as connection:
        return str(connection.scalar(text("select current_timestamp")))


@app.get("/clock")
def clock() -> Response:
    """Send the database's time each second."""
    stream = request.environ["ssemiddleware.stream"]

    def times() -> Iterator[bytes]:
        yield bytes(Event(time_of_database()))
        while not stream.closing.wait(1):  # in place of time.sleep(1)
            yield bytes(Event(time_of_database()))

    return Response(times(), mimetype="text/event-stream")


app.wsgi_app = SSEMiddleware(app.wsgi_app)  # type: ignore[method-assign]
