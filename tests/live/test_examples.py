"""The examples under gunicorn, started by the command that each of them names, and asked by clients as people have them."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from httpx_sse import ServerSentEvent, connect_sse
from mcp import Client, MCPError

from .client import PATIENCE, Connection
from .conftest import Start
from .llm_stub import ENDLESS
from .serving import EVENT_SOURCE, GTHREAD, START_WITHIN, Kind, Server
from .test_readme import redis_port as redis_port

pytestmark = pytest.mark.live

EXAMPLES = Path(__file__).parents[2] / "examples"
THREADS = 50  # of the command that each example names

Run = Callable[[str], Server]


def kind_of(name: str) -> Kind:
    """Return gunicorn as the docstring of an example has it."""
    document = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))) or ""
    (line,) = re.findall(r"^gunicorn .*", document, re.MULTILINE)
    arguments = [str(EXAMPLES) if argument == "examples" else argument for argument in shlex.split(line)[1:]]

    def command(application: str, port: int) -> list[str]:
        assert arguments[-1].startswith(f"{application}:")
        return [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", *arguments]

    return Kind(f"example {name}", command, ("gunicorn",))


@pytest.fixture
def run(serve: Start) -> Iterator[Run]:
    """Start an example by its name."""
    started: list[Server] = []

    def run(name: str) -> Server:
        started.append(serve(kind_of(name), name))
        return started[-1]

    yield run
    for server in started:
        assert "Traceback" not in server.output()


def url_of(server: Server, path: str) -> str:
    return f"http://127.0.0.1:{server.port}{path}"


@contextmanager
def reading(server: Server, path: str, method: str = "GET", **request: Any) -> Iterator[Iterator[ServerSentEvent]]:
    """Give the events of a stream, as httpx-sse reads them."""
    with httpx.Client(timeout=PATIENCE) as client, connect_sse(client, method, url_of(server, path), **request) as source:
        assert source.response.status_code == 200
        yield source.iter_sse()


def test_the_clock_of_flask_goes_on_where_the_client_left_off(run: Run) -> None:
    with reading(run("flask_clock"), "/clock", headers={"Last-Event-ID": "41"}) as events:
        first, second = next(events), next(events)
    assert [(event.event, event.id) for event in (first, second)] == [("tick", "42"), ("tick", "43")]
    assert re.fullmatch(r"\d\d:\d\d:\d\d", first.data)


def test_the_countdown_of_django_comes_one_by_one_past_its_gzip(run: Run) -> None:
    with reading(run("django_countdown"), "/countdown", headers={"Accept-Encoding": "gzip"}) as events:
        came = [(event.data, time.monotonic()) for event in events]
    assert [data for data, _ in came] == ["5", "4", "3", "2", "1"]
    assert came[-1][1] - came[0][1] > 2  # not all at once in the end


def test_the_chat_answers_a_post(run: Run) -> None:
    with reading(run("chat"), "/chat", "POST", content="Well?") as events:
        *words, last = [event.json() for event in events]
    assert "".join(word["token"] for word in words) == "You asked: Well? I think so. "
    assert last == {"done": True}


def listen(server: Server, path: str) -> Connection:
    """Return the stream that an EventSource has opened there."""
    connection = server.ask(path, EVENT_SOURCE)
    connection.read_headers()
    return connection


def test_what_is_published_reaches_each_client_of_the_process(run: Run) -> None:
    server = run("queue_broadcast")
    clients = [listen(server, "/events") for _ in range(2)]
    assert httpx.post(url_of(server, "/publish"), content="Hello!\nYou?").status_code == 204
    for client in clients:
        client.read_until(b"data: Hello!\ndata: You?\n\n")


def test_what_redis_publishes_reaches_the_clients_of_each_worker(
    redis_port: int, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{redis_port}")
    server = run("redis_broadcast")
    server.output_once("(?s)Booting worker.*Booting worker", within=START_WITHIN)
    clients = []
    for worker in server.process.children():
        with server.only(worker):
            clients.append(listen(server, "/events"))
    assert len(clients) == 2
    assert httpx.post(url_of(server, "/publish"), data={"text": "Hello!"}).status_code == 204
    for client in clients:
        client.read_until(b"data: Hello!\n\n")


def test_more_streams_than_the_pool_has_connections_read_from_the_database(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/example.sqlite3")
    server = run("sqlalchemy_clock")
    for client in [server.ask("/clock", EVENT_SOURCE) for _ in range(6)]:
        client.read_until(b"\n\n")
        first = client.body
        client.read_until(b"\n\ndata: ")
        assert re.search(rb"data: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d\n\n", first)


@pytest.mark.parametrize("name", ["chat", "datastar_clock", "htmx_news", "react_progress"])
def test_the_command_of_an_example_with_a_page_serves_it(run: Run, name: str) -> None:
    page = httpx.get(url_of(run(name), "/"))
    assert page.status_code == 200
    assert "</script>" in page.text


@pytest.fixture
def stub(serve: Start, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A language model's server, to which the example's client is led."""
    server = serve(GTHREAD, "live.llm_stub:app")
    monkeypatch.setenv("OPENAI_BASE_URL", url_of(server, "/v1"))
    monkeypatch.setenv("OPENAI_API_KEY", "for tests")
    return server


def test_the_tokens_of_a_language_model_come_as_they_are_made(stub: Server, run: Run) -> None:
    with reading(run("llm_tokens"), "/ask", "POST", content="Why is the sky blue?") as events:
        *tokens, last = [event.json() for event in events]
    assert [token["token"] for token in tokens] == ["Why ", "is ", "the ", "sky ", "blue? "]
    assert last == {"done": True}


def test_a_language_model_stops_when_its_client_disconnects(stub: Server, run: Run) -> None:
    with reading(run("llm_tokens"), "/ask", "POST", content=ENDLESS) as events:
        assert next(events).json() == {"token": "long "}
        assert stub.get("/reasons").body == b"[]"
    deadline = time.monotonic() + PATIENCE
    while (reasons := stub.get("/reasons").body) == b"[]":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert reasons == b'["client gone"]'


def test_the_mcp_client_lists_the_tool_and_sees_its_progress_and_its_result(run: Run) -> None:
    seen: list[tuple[float, float | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total))

    async def use(url: str) -> tuple[list[str], list[str]]:
        async with Client(url) as client:
            tools = await client.list_tools()
            with pytest.raises(MCPError, match="there is no such tool"):
                await client.call_tool("spell", {})
            result = await client.call_tool("count", {"to": 3}, progress_callback=on_progress)
            return [tool.name for tool in tools.tools], [part.text for part in result.content if part.type == "text"]

    url = url_of(run("mcp_server"), "/mcp")
    assert asyncio.run(use(url)) == (["count"], ["counted to 3"])
    assert seen == [(1, 3), (2, 3), (3, 3)]
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    origins = {"https://elsewhere.example": 403, url.removesuffix("/mcp"): 200}
    assert {origin: httpx.post(url, json=ping, headers={"Origin": origin}).status_code for origin in origins} == origins


def test_an_mcp_client_is_served_while_the_event_streams_of_others_are_as_many_as_may_be(run: Run) -> None:
    server = run("mcp_server")
    parameters = {"name": "count", "arguments": {"to": 1_000_000}, "_meta": {"progressToken": 1}}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": parameters}).encode()
    headers = [("Accept", "application/json, text/event-stream"), ("Content-Type", "application/json")]
    headers.append(("Content-Length", str(len(body))))
    for _ in range(THREADS - THREADS // 4):
        server.ask("/mcp", headers, method="POST", more=body).read_until(b"data: ")
    refused = server.get("/mcp", EVENT_SOURCE)
    assert (refused.status, refused.body[:7]) == (200, b"retry: ")

    async def use(url: str) -> tuple[list[str], bool]:
        async with Client(url) as client:
            tools = await client.list_tools()
            result = await client.call_tool("count", {"to": 3})
            return [tool.name for tool in tools.tools], result.is_error

    assert asyncio.run(use(url_of(server, "/mcp"))) == (["count"], False)
