"""Flask: the tokens of a language model, from any server that speaks OpenAI's protocol, as they come. Run it with

gunicorn --worker-class gthread --threads 50 --chdir examples llm_tokens:app
curl -N -H 'Accept: text/event-stream' -d 'Why is the sky blue?' http://127.0.0.1:8000/ask

Heartbeats keep the stream alive while the model thinks. ``OPENAI_API_KEY``, ``OPENAI_BASE_URL`` and ``MODEL`` name the
server and its model. Needs ``pip install flask openai``. The page of ``chat.py`` shows how a browser reads such a stream.
"""

import os
from collections.abc import Iterator

from flask import Flask, Response, request
from openai import OpenAI

from ssemiddleware import Event, SSEMiddleware

app = Flask(__name__)
client = OpenAI()


@app.post("/ask")
def ask() -> Response:
    """Answer a question token by token."""
    question = request.get_data(as_text=True)

    def tokens() -> Iterator[bytes]:
        with client.chat.completions.create(
            model=os.environ.get("MODEL", "gpt-4o-mini"), messages=[{"role": "user", "content": question}], stream=True
        ) as answer:
            for part in answer:  # when the client is gone, the server closes this generator, and the block the model's answer
                for choice in part.choices:
                    yield bytes(Event(json={"token": choice.delta.content or ""}))
        yield bytes(Event(json={"done": True}))  # an answer without it is not the whole one

    return Response(tokens(), mimetype="text/event-stream")


app.wsgi_app = SSEMiddleware(app.wsgi_app)  # type: ignore[method-assign]
