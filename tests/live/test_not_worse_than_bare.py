"""What an application may do on its server's thread, it may do wrapped: thread-bound things, transactions, contexts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from ssemiddleware import SSEMiddleware

from .client import Headers
from .conftest import Start
from .serving import CLIENTS, GEVENT, GTHREAD, SYNC, Kind, gunicorn

pytestmark = pytest.mark.live

ways = pytest.mark.parametrize("way", ["bare", "wrapped"])
DOUBLES = b"data: 0\n\ndata: 2\n\ndata: 4\n\n"


@ways
@pytest.mark.parametrize("path", ["/database", "/loop"])
def test_a_sync_workers_application_may_use_what_belongs_to_its_main_thread(way: str, path: str, serve: Start) -> None:
    """A connection to SQLite of the module's own, and the main thread's event loop."""
    server = serve(SYNC, f"live.as_bare:{way}")
    for client in CLIENTS:
        headers: Headers = client.values[0]  # type: ignore[assignment]
        response = server.get(path, headers)
        assert (response.status, response.body, response.ended) == (200, DOUBLES, "cleanly"), server.output()


@ways
@pytest.mark.parametrize("kind", [SYNC, GTHREAD, GEVENT], ids=str)
def test_an_outer_transaction_manager_commits_what_the_view_and_its_stream_have_joined(
    kind: Kind, way: str, serve: Start
) -> None:
    pytest.importorskip("repoze.tm")
    server = serve(kind, f"live.as_bare:create_transactional({way!r})")
    for client in CLIENTS:
        headers: Headers = client.values[0]  # type: ignore[assignment]
        assert server.get("/transaction", headers).body.removeprefix(b":\n") == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
    committed = server.get("/committed").body.decode().split("\n")
    expected = {"joined in the view": 3, "joined while it was iterated": 3}
    assert {name: committed.count(name) for name in expected} == expected


@ways
@pytest.mark.parametrize(
    "kind",
    [gunicorn(kind, *options, "--config=python:live.as_bare") for kind, *options in (("sync",), ("gthread", "--threads=4"))],
    ids=str,
)
def test_gunicorns_access_log_and_hooks_read_the_context_variables_of_the_request(kind: Kind, way: str, serve: Start) -> None:
    server = serve(kind, f"live.as_bare:{way}")
    for number, client in enumerate(CLIENTS, 1):
        headers: Headers = client.values[0]  # type: ignore[assignment]
        body = server.get("/context", headers).body
        assert body == b"".join(b"data: %d of request %d\n\n" % (each, number) for each in range(3))
        server.output_once(f"access log sees request {number}, all sent")
        server.output_once(f"post_request sees request {number}, all sent")


# -- Flask's test client


def test_flasks_client_keeps_the_context_of_a_stream_that_it_has_read() -> None:
    flask: Any = pytest.importorskip("flask")
    app = flask.Flask(__name__)

    @app.get("/")  # type: ignore[untyped-decorator]
    def stream() -> object:
        def three() -> Iterator[str]:
            for number in range(3):
                yield f"data: {number} on {flask.request.path}\n\n"

        return flask.Response(flask.stream_with_context(three()), mimetype="text/event-stream")

    app.wsgi_app = SSEMiddleware(app.wsgi_app)
    for headers in ({"Accept": "text/event-stream", "Cache-Control": "no-cache"}, {"Accept": "text/event-stream"}, {}):
        for _ in range(10):
            with app.test_client() as client:
                response = client.get("/", headers=headers)
                assert re.findall("data: (.*)\n\n", response.text) == ["0 on /", "1 on /", "2 on /"]
                assert flask.request.path == "/"
