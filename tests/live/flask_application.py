"""A Flask application as its documentation writes it: a connection in `g`, used by a stream, closed when the context ends."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Iterator

from flask import Flask, Response, g, jsonify, request, stream_with_context

from ssemiddleware import SSEMiddleware

app = Flask(__name__)
app.wsgi_app = SSEMiddleware(app.wsgi_app)  # type: ignore[method-assign]  # as Flask has it

# By the request's key: which thread did what.
threads: defaultdict[str, dict[str, list[int]]] = defaultdict(lambda: {"opened": [], "used": [], "closed": []})


def note(moment: str) -> None:
    threads[g.key][moment].append(threading.get_ident())


@app.before_request
def note_key() -> None:
    g.key = request.args.get("key", "")  # the request itself is gone when its contexts are torn down


def database() -> sqlite3.Connection:
    if "database" not in g:
        g.database = sqlite3.connect(":memory:")  # with check_same_thread, as it is by default
        note("opened")
    connection: sqlite3.Connection = g.database
    return connection


@app.teardown_appcontext
def close_database(error: BaseException | None) -> None:
    connection = g.pop("database", None)
    if connection is not None:
        connection.close()
        note("closed")


def double(number: int) -> int:
    note("used")
    result: int = database().execute("select ? * 2", [number]).fetchone()[0]
    return result


@app.get("/doubles")
def doubles() -> Response:
    """Three events, each from the database; the view itself has asked it before."""
    double(0)
    return Response(stream_with_context(three_doubles()), mimetype="text/event-stream")


def three_doubles() -> Iterator[str]:
    for number in (1, 2, 3):
        yield f"data: {double(number)} on {request.path}\n\n"


@app.get("/ticks")
def ticks() -> Response:
    """An event each 50 ms, without end."""
    double(0)
    return Response(stream_with_context(endless_ticks(pause=0.05)), mimetype="text/event-stream")


@app.get("/silence")
def silence() -> Response:
    """An event, and nothing until the client has left."""
    double(0)
    return Response(stream_with_context(one_tick_and_silence()), mimetype="text/event-stream")


def endless_ticks(pause: float) -> Iterator[str]:
    while True:
        yield f"data: {double(1)}\n\n"
        time.sleep(pause)


def one_tick_and_silence() -> Iterator[str]:
    yield f"data: {double(1)}\n\n"
    request.environ["ssemiddleware.stream"].closed.wait(20)


@app.get("/fails")
def fails() -> Response:
    """An event, and an error."""
    return Response(stream_with_context(one_event_and_an_error()), mimetype="text/event-stream")


def one_event_and_an_error() -> Iterator[str]:
    yield f"data: {double(1)}\n\n"
    raise RuntimeError("the stream of " + request.args["key"])


@app.get("/life")
def life() -> Response:
    return jsonify(threads[request.args["key"]])


@app.get("/ping")
def ping() -> str:
    return "pong"
