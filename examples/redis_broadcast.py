"""Flask: broadcast to the clients of all workers through Redis, iterated through `Stream.each`. Run it with

gunicorn --worker-class gthread --workers 2 --threads 50 --chdir examples redis_broadcast:app
curl -N http://127.0.0.1:8000/events
curl -d text=Hello http://127.0.0.1:8000/publish

``REDIS_URL`` names the server, redis://localhost:6379 by default. Needs ``pip install flask redis``.
"""

import os

from flask import Flask, Response, request
from redis import Redis

from ssemiddleware import Event, SSEMiddleware

CHANNEL = "news"

app = Flask(__name__)
database = Redis.from_url(os.environ.get("REDIS_URL", "redis://localhost:6379"), decode_responses=True)  # connects when used


@app.get("/events")
def events() -> Response:
    """Send what is published from now on, until the client disconnects or the server stops."""
    stream = request.environ["ssemiddleware.stream"]
    pubsub = database.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]  # redis has no types for it
    pubsub.subscribe(CHANNEL)
    # Not close(): that hands the connection to others while listen() still reads from it.
    messages = stream.each(pubsub.listen(), stop=pubsub.unsubscribe, endless=True)
    return Response((bytes(Event(message["data"])) for message in messages), mimetype="text/event-stream")


@app.post("/publish")
def publish() -> tuple[str, int]:
    """Hand a text to the clients of every worker."""
    database.publish(CHANNEL, request.form["text"])
    return "", 204


app.wsgi_app = SSEMiddleware(app.wsgi_app)  # type: ignore[method-assign]
