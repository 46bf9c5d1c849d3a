"""Applications that block where nothing but the source itself can wake them: queues, Redis, threads that are kept.

/queue?key=...[&each=1]   an event stream of what is put into the queue of that name, bare or through stream.each()
/feed?key=...&times=...   put so many None into it: each ends one reader
/redis?channel=...        pubsub.listen() through stream.each(); REDIS_PORT says where
/tokens?number=...&pause=...[&each=...]    a finite answer, bare, through each() or each(endless=True)
/close-descriptors        os.closerange() over the connections of all readers of queues; under gunicorn
/descriptors              their numbers, as JSON
/inside[?heartbeats=1]    the threads of the process, and what that middleware counts, as JSON
/ping
"""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from ssemiddleware import SSEMiddleware, Stream

from .applications import AMPLE, HEARTBEAT, answer

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

CONNECTIONS: list[Any] = []  # the server's sockets of the readers
QUEUES: defaultdict[str, queue.Queue[bytes | None]] = defaultdict(queue.Queue)

Query = dict[str, str]


def from_queue(stream: Stream, query: Query) -> Iterator[bytes]:
    source = QUEUES[query["key"]]
    yield b"data: hello\n\n"
    if "each" in query:
        yield from stream.each(iter(source.get, None), stop=lambda: source.put(None))
    else:
        yield from iter(source.get, None)


def from_redis(stream: Stream, query: Query) -> Iterator[bytes]:
    import redis

    client: Any = redis.Redis(port=int(os.environ["REDIS_PORT"]))
    pubsub = client.pubsub()
    pubsub.subscribe(query["channel"])
    for message in stream.each(pubsub.listen(), stop=pubsub.unsubscribe, endless=True):
        yield b"data: hello\n\n" if message["type"] == "subscribe" else b"data: %s\n\n" % message["data"]


def tokens(stream: Stream, query: Query) -> Iterator[bytes]:
    def made() -> Iterator[bytes]:
        for number in range(int(query["number"])):
            yield b"data: token %d\n\n" % number
            time.sleep(float(query["pause"]))

    if "each" not in query:
        return made()
    return stream.each(made(), endless=query["each"] == "endless")


STREAMS = {"/queue": from_queue, "/redis": from_redis, "/tokens": tokens}


def sources(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    query = {name: values[0] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
    path = environ["PATH_INFO"]
    if path == "/queue":
        CONNECTIONS.append(environ.get("gunicorn.socket"))
    if path in STREAMS:
        start_response("200 OK", [("Content-Type", "text/event-stream"), ("X-Process", str(os.getpid()))])
        return STREAMS[path](environ["ssemiddleware.stream"], query)
    if path == "/feed":
        for _ in range(int(query["times"])):
            QUEUES[query["key"]].put(None)
        return answer(start_response, b"fed")
    if path == "/close-descriptors":
        numbers = [connection.fileno() for connection in CONNECTIONS]
        CONNECTIONS.clear()
        for number in numbers:
            os.closerange(number, number + 1)
        return answer(start_response, json.dumps(numbers).encode())
    if path == "/descriptors":
        return answer(start_response, json.dumps([connection.fileno() for connection in CONNECTIONS]).encode())
    if path == "/inside":
        stats = (app_with_heartbeats if "heartbeats" in query else app).stats()
        figures = {each.name: getattr(stats, each.name) for each in fields(stats)}
        threads = [thread.name for thread in threading.enumerate()]
        return answer(start_response, json.dumps({**figures, "ended": dict(stats.ended), "threads": threads}).encode())
    return answer(start_response, b"pong")


app = SSEMiddleware(sources, memory=AMPLE)
app_with_heartbeats = SSEMiddleware(sources, heartbeat=HEARTBEAT, memory=AMPLE)
