"""The pages that the documents show work in Chromium, WebKit and Firefox, with the applications that the documents show."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from flask import Flask, Response
from werkzeug.serving import make_server

from ssemiddleware import Fold, Fragment, SSEMiddleware
from ssemiddleware.__main__ import CLIENT

from ..test_documents import DOCUMENTS, blocks_of, run
from .driving import Browser

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]  # a browser may be slow to start

WITHIN = 30.0  # seconds
BEFORE = """<!DOCTYPE html><script>
window.show = data => window.shown = data.number;  // what a page brings itself
window.EventSource = class extends EventSource { constructor(url) { super(url); window.made = this; } };
</script><body>"""


def as_it_is(app: Flask) -> None:
    """Change nothing."""


def with_fragments(app: Flask) -> None:
    """Serve what docs/large-events.md has before its page."""
    inner = app.wsgi_app
    assert isinstance(inner, SSEMiddleware)
    app.wsgi_app = SSEMiddleware(inner.options.application, oversized=[Fold(), Fragment(over=1)])  # type: ignore[method-assign]
    script = Response(CLIENT.read_text(encoding="utf-8"), mimetype="text/javascript")
    app.add_url_rule("/static/fragmented-event-source.js", view_func=lambda: script, endpoint="client")


# What each page does, in JavaScript, once it has got what the application sends.
PAGES: dict[str, tuple[Callable[[Flask], None], str]] = {
    "docs/quickstart.md": (as_it_is, "document.title === '100 %'"),
    "docs/chat-and-mcp.md": (as_it_is, "document.body.textContent.includes('You asked: Why? Let me think.')"),
    "docs/large-events.md": (with_fragments, "window.shown >= 2"),
    "docs/troubleshooting.md": (as_it_is, "made.readyState === 1"),
}


def test_each_document_with_a_page_is_tried() -> None:
    assert {name for name in DOCUMENTS if blocks_of("html", name)} == set(PAGES)


@contextmanager
def serving(application: WSGIApplication) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, application, threaded=True)
    server.daemon_threads = True  # type: ignore[attr-defined]  # an endless stream is no reason to wait
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_the_documents_shows_what_it_gets(name: str, browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare, is_shown = PAGES[name]
    app = run(name, monkeypatch)["app"]
    page = BEFORE + "".join(blocks_of("html", name))
    app.add_url_rule("/", view_func=lambda: page, endpoint="page")
    prepare(app)
    with serving(app) as url:
        browser.open(url)
        deadline = time.monotonic() + WITHIN
        while not browser.run(f"return Boolean({is_shown});"):
            assert time.monotonic() < deadline, browser.run("return document.documentElement.outerHTML;")
            time.sleep(0.05)
        browser.open("about:blank")  # closes what the page has open
