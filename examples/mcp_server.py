"""Flask: an MCP server (Model Context Protocol, streamable HTTP) with one tool that reports its progress. Run it with

gunicorn --worker-class gthread --threads 50 --chdir examples mcp_server:app

Its address for an MCP client is http://127.0.0.1:8000/mcp. It has no sessions, so that any worker may answer any request.
"""

from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, jsonify, request
from flask.typing import ResponseReturnValue

from ssemiddleware import Event, SSEMiddleware

VERSIONS = ("2025-11-25", "2025-06-18", "2025-03-26")
COUNT = {
    "name": "count",
    "description": "Count up to a number, one each tenth of a second.",
    "inputSchema": {"type": "object", "properties": {"to": {"type": "integer"}}, "required": ["to"]},
}

app = Flask(__name__)


@app.post("/mcp")
def mcp() -> ResponseReturnValue:
    """Answer a message: a tool's call with an event stream, another request with JSON."""
    if request.headers.get("Origin") not in (None, request.host_url.rstrip("/")):
        return "", 403  # a page of another site in the user's browser
    message = request.get_json()
    parameters = message.get("params") or {}
    if "id" not in message:  # a notification
        return "", 202
    if message["method"] == "tools/call":
        if parameters.get("name") != COUNT["name"]:
            return jsonify(failure(message["id"], -32602, "there is no such tool"))
        return Response(count(message["id"], parameters), mimetype="text/event-stream")
    if message["method"] == "initialize":
        asked = parameters.get("protocolVersion")
        version = asked if asked in VERSIONS else VERSIONS[0]
        server = {"name": "counter", "version": "1"}
        return jsonify(reply(message["id"], {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": server}))
    if message["method"] == "tools/list":
        return jsonify(reply(message["id"], {"tools": [COUNT]}))
    if message["method"] == "ping":
        return jsonify(reply(message["id"], {}))
    return jsonify(failure(message["id"], -32601, f"there is no method {message['method']}"))


def count(identity: object, parameters: dict[str, Any]) -> Iterator[bytes]:
    """Count, and send a notification for each number if the client has asked for that."""
    to = int(parameters["arguments"]["to"])
    token = parameters.get("_meta", {}).get("progressToken")
    stream = request.environ["ssemiddleware.stream"]

    def messages() -> Iterator[bytes]:
        for number in range(1, to + 1):
            if stream.closed.wait(0.1):
                return
            if token is not None:
                progress = {"progressToken": token, "progress": number, "total": to}
                yield event({"jsonrpc": "2.0", "method": "notifications/progress", "params": progress})
        yield event(reply(identity, {"content": [{"type": "text", "text": f"counted to {to}"}]}))

    return messages()


def event(message: dict[str, Any]) -> bytes:
    """Return a message as an event."""
    return bytes(Event(event="message", json=message))


def reply(identity: object, result: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to the request with that id."""
    return {"jsonrpc": "2.0", "id": identity, "result": result}


def failure(identity: object, code: int, text: str) -> dict[str, Any]:
    """Return the error that answers the request with that id."""
    return {"jsonrpc": "2.0", "id": identity, "error": {"code": code, "message": text}}


app.wsgi_app = SSEMiddleware(app.wsgi_app)  # type: ignore[method-assign]
