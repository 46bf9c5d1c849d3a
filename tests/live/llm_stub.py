"""A language model's server as OpenAI's clients know it: it repeats the question, after a silence in which heartbeats come."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ssemiddleware import Event, SSEMiddleware, Stream

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

ENDLESS = "How long is forever?"

reasons: list[str | None] = []  # why each stream has ended


def model(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"] == "/reasons":
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(reasons).encode()]
    asked = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    assert (environ["PATH_INFO"], asked["stream"]) == ("/v1/chat/completions", True)
    stream: Stream = environ["ssemiddleware.stream"]
    stream.on_close(lambda: reasons.append(stream.reason))
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    return answer(asked["messages"][0]["content"], asked["model"], stream)


def answer(question: str, model: str, stream: Stream) -> Iterator[bytes]:
    words = itertools.repeat("long ") if question == ENDLESS else (f"{word} " for word in question.split())
    stream.closed.wait(1)
    for word in words:
        choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
        part = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": model, "choices": [choice]}
        yield bytes(Event(json=part))
        if stream.closed.wait(0.02):
            return
    yield bytes(Event("[DONE]"))


app = SSEMiddleware(model, heartbeat=0.25, announced=lambda environ: True)
