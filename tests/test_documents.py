"""What the documents say is true: examples run, and facts that stand twice agree."""

from __future__ import annotations

import ast
import configparser
import contextlib
import doctest
import importlib
import importlib.util
import itertools
import json
import pkgutil
import re
import shlex
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import pytest
from flask import Flask, Response, request
from werkzeug.test import Client

import benchmarks.__main__
import ssemiddleware
import ssemiddleware.__main__
from benchmarks import kernel_settings, load
from benchmarks.applications import served
from ssemiddleware import Event, SSEMiddleware, ending, metrics, read_events, servers, wrap
from ssemiddleware.demo.flask_streams import create_flask_app
from ssemiddleware.memory import State
from ssemiddleware.oversized.fragment import Fragmenting
from ssemiddleware.servers import _KNOWN
from ssemiddleware.servers.a2wsgi import A2wsgi
from ssemiddleware.servers.cheroot import Cheroot
from ssemiddleware.servers.granian import Granian
from ssemiddleware.servers.gunicorn import Gunicorn, GunicornPywsgi
from ssemiddleware.servers.hypercorn import Hypercorn
from ssemiddleware.servers.mod_wsgi import ModWsgi
from ssemiddleware.servers.pywsgi import PatchedPywsgi, UnpatchedPywsgi
from ssemiddleware.servers.server import Server as BaseServer
from ssemiddleware.servers.testing import UnitTest
from ssemiddleware.servers.uwsgi import Uwsgi
from ssemiddleware.servers.waitress import Waitress
from ssemiddleware.servers.werkzeug import Werkzeug
from ssemiddleware.servers.wsgiref import Wsgiref
from ssemiddleware.testing import open_stream

from .live import proxy_table
from .live.every_server import FACTS, ROWS, expected
from .live.proxies.every import CONFIGURATIONS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
FOLDERS = (ROOT, ROOT / "docs", ROOT / "examples")
DOCUMENTS = {path.relative_to(ROOT).as_posix(): path for folder in FOLDERS for path in folder.glob("*.md")}

each_document = pytest.mark.parametrize("name", DOCUMENTS)
urlpatterns: list[object] = []

# Each has a plainer one: told -> got, knows, says; whoever -> the thread that; lest -> otherwise; comes back -> reconnects.
ODD_WORDS = (
    r"\b(?:whoever|whosever|nobody|told|tells? (?:of|who|whom)|lest|for good|takes? nothing|sent away|who gets|to be had"
    r"|comes? back|in vain|in the making|makes? nobody|last words|the very (?:same|object|block|thread))\b"
)


def text_of(name: str) -> str:
    return DOCUMENTS[name].read_text(encoding="utf-8")


def blocks_of(language: str, name: str = "README.md") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text_of(name), re.DOTALL)


def rows_of(name: str, columns: str) -> list[list[str]]:
    """Return the cells of the table with these columns."""
    _, table = text_of(name).split(f"| {columns} |\n")
    lines = itertools.takewhile(lambda line: line.startswith("|"), table.splitlines()[1:])
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


# -- their Python


def counting() -> Flask:
    """Return a wrapped application that counts, which the documents call ``app``."""
    app = Flask("document")

    @app.get("/events")
    def events() -> Response:
        stream = request.environ["ssemiddleware.stream"]
        numbers = itertools.takewhile(lambda number: not stream.closing.wait(0.01 * (number > 1)), itertools.count(1))
        return Response(
            (bytes(Event(json={"number": number}, id=str(number))) for number in numbers), mimetype="text/event-stream"
        )

    app.wsgi_app = SSEMiddleware(app.wsgi_app)  # type: ignore[method-assign]
    return app


def run(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run all Python in a document, in its order, and the tests that it defines; return what it has defined."""
    from django.conf import settings

    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF="tests.test_documents")
    handlers: dict[int, Any] = {}
    app = counting()
    namespace: dict[str, Any] = {
        "__name__": "document",
        "app": app,
        "application": app.wsgi_app,
        "create_app": lambda: counting().wsgi_app,
        "handlers": handlers,
    }
    added = ["".join(line[1:] for line in diff.splitlines(keepends=True)) for diff in blocks_of("diff", name)]
    with monkeypatch.context() as patched:
        patched.setattr(signal, "signal", handlers.__setitem__)
        patched.setitem(sys.modules, "gevent", types.SimpleNamespace(signal_handler=lambda *_: None))
        for block in (*added, *blocks_of("python", name)):
            exec(compile(block, name, "exec"), namespace)
    for test in [value for name, value in namespace.items() if name.startswith("test_")]:
        test()
    return namespace


@each_document
def test_the_python_in_a_document_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run(name, monkeypatch)


def test_the_readme_s_line_is_one_line_and_its_import() -> None:
    (diff,) = blocks_of("diff")
    assert [line for line in diff.splitlines() if line.startswith("+")] == [
        "+from ssemiddleware import SSEMiddleware",
        "+app.wsgi_app = SSEMiddleware(app.wsgi_app)",
    ]


def test_the_readme_s_endless_stream_ends_when_the_server_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    app = run("README.md", monkeypatch)["app"]
    with open_stream(app, "/clock") as stream:
        assert stream.next_event().data == "tick"
        app.wsgi_app.drain()
        assert len(list(stream)) <= 1


def no_source_is_left() -> bool:
    """Tell whether no thread of `Stream.each` is there, or soon."""
    for thread in threading.enumerate():
        if thread.name == "ssemiddleware-source":
            thread.join(5)
    return all(thread.name != "ssemiddleware-source" for thread in threading.enumerate())


def test_a_callback_wakes_the_application_of_the_document(monkeypatch: pytest.MonkeyPatch) -> None:
    app = run("docs/in-your-application.md", monkeypatch)["app"]
    with open_stream(app, "/clock", headers={"Last-Event-ID": "41"}) as clock:
        assert clock.next_event().id == "42"
    with open_stream(app, "/jobs") as stream, contextlib.suppress(TimeoutError):
        stream.next_event(timeout=0.1)
    assert app.wsgi_app.stats().open == 0


def test_the_listeners_of_the_document_are_those_whose_streams_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    document = run("docs/options.md", monkeypatch)
    application = SSEMiddleware(document["app"].wsgi_app.options.application, on_open=document["on_open"])
    with open_stream(application, "/events"):
        assert len(document["listeners"]) == 1
    assert document["listeners"] == set()


def test_a_mailbox_of_the_document_reaches_each_client(monkeypatch: pytest.MonkeyPatch) -> None:
    document = run("docs/in-your-application.md", monkeypatch)
    with open_stream(document["app"], "/messages") as one, open_stream(document["app"], "/messages") as other:
        document["publish"]("text")
        assert one.next_event().data == other.next_event().data == "text"
    assert document["mailboxes"] == set()
    assert no_source_is_left()


def test_a_chat_of_the_document_is_announced_and_marks_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    app = run("docs/chat-and-mcp.md", monkeypatch)["app"]
    with open_stream(app, "/chat", method="POST", json={"question": "Why?"}, headers={"Accept": "*/*"}) as stream:
        *tokens, last = [event.data for event in stream]
    assert "".join(json.loads(token)["token"] for token in tokens) == "You asked: Why? Let me think."
    assert last == "[DONE]"
    assert app.wsgi_app.options.announced({"PATH_INFO": "/chat"})


def test_a_slow_model_of_the_document_is_closed_once_its_client_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    document = run("docs/chat-and-mcp.md", monkeypatch)
    with open_stream(document["app"], "/slow") as stream:
        assert json.loads(stream.next_event().data) == {"token": "thinking "}
    (model,) = document["models"]
    assert model.is_closed.wait(5)
    assert no_source_is_left()


def test_a_tool_of_the_document_reports_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    app = run("docs/chat-and-mcp.md", monkeypatch)["app"]
    call = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"_meta": {"progressToken": "a"}}}
    headers = {"Accept": "application/json, text/event-stream"}
    with open_stream(app, "/mcp", method="POST", json=call, headers=headers) as stream:
        sent = [json.loads(event.data) for event in stream]
    assert [message.get("params", {}).get("progressToken") for message in sent] == ["a", "a", None]
    assert sent[-1]["id"] == 7


def test_the_quickstart_s_application_sends_its_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_stream(run("docs/quickstart.md", monkeypatch)["app"], "/progress") as stream:
        assert [json.loads(event.data)["percent"] for event in stream] == [0, 20, 40, 60, 80, 100]


DJANGO_VIEWS = [("docs/quickstart.md", "clock"), ("docs/in-your-application.md", "order")]


@pytest.mark.parametrize(("name", "view"), DJANGO_VIEWS)
def test_a_django_view_of_the_document_ends_when_the_server_stops(
    name: str, view: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.test import override_settings
    from django.urls import path

    document = run(name, monkeypatch)
    urls = types.ModuleType("urls")
    urls.urlpatterns = [path("view", document[view])]  # type: ignore[attr-defined]
    application = document["application"]
    with override_settings(ROOT_URLCONF=urls, MIDDLEWARE=[]), open_stream(application, "/view") as stream:
        assert stream.next_event().data
        application.drain()
        assert len(list(stream)) <= 1


def test_clients_that_are_no_event_source_are_announced_as_the_document_says(monkeypatch: pytest.MonkeyPatch) -> None:
    announced = run("docs/in-your-application.md", monkeypatch)["announced"]
    assert announced({"PATH_INFO": "/chat"})
    assert not announced({"PATH_INFO": "/"})


def test_the_handler_of_the_document_is_not_registered_where_the_server_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda _: print)
    assert run("docs/servers.md", monkeypatch)["handlers"] == {}
    monkeypatch.setattr(signal, "getsignal", lambda _: signal.SIG_DFL)
    assert list(run("docs/servers.md", monkeypatch)["handlers"]) == [signal.SIGTERM]


@each_document
def test_the_gunicorn_commands_find_their_application(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = types.ModuleType("shop.web")
    shop.create_app = lambda: lambda environ, start_response: []  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shop", types.ModuleType("shop"))
    monkeypatch.setitem(sys.modules, "shop.web", shop)
    for expression in re.findall(r'gunicorn\b.*"ssemiddleware:(wrap\(.*\))"', text_of(name)):
        middleware = eval(expression, {"wrap": wrap})
        assert isinstance(middleware, SSEMiddleware)
        assert middleware.options.heartbeat == (20 if "heartbeat" in expression else 15.0)


# -- their tables and facts


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "docs")
    return importlib.import_module("generated")


def test_the_table_of_options_is_what_the_docstring_and_the_signature_say(generated: Any) -> None:
    assert generated.with_options(text_of("docs/options.md")) == text_of("docs/options.md"), "run `make docs`"
    rows = rows_of("docs/options.md", "option | default | is")
    defaults = SSEMiddleware.__init__.__kwdefaults__ or {}
    assert [name.strip("`") for name, _, _ in rows] == list(defaults)
    for name, shown, _ in rows:
        default = eval(shown.strip("`"), vars(ssemiddleware))
        assert repr(default) == repr(defaults[name.strip("`")]), name


def test_each_page_of_the_site_is_in_its_contents_once(generated: Any) -> None:
    pages = [name for names in generated.contents().values() for name in names]
    assert sorted([*pages, "index"]) == sorted(path.stem for path in (ROOT / "docs").glob("*.md"))


def test_llms_txt_says_of_each_page_what_is_on_it(generated: Any) -> None:
    text = generated.llms_txt()
    title, rest = text.split("\n\n> One line around a WSGI application, ")
    assert title == "# ssemiddleware"
    lines = [line for line in rest.splitlines() if line.startswith("- ")]
    assert len(lines) == len(list((ROOT / "docs").glob("*.md"))) - 1
    for line in lines:
        assert re.fullmatch(r"- \[[^]#`]+\]\([a-z-]+\.md\): [^#|].*[.:?]", line), line


def test_the_reference_has_each_public_name() -> None:
    shown = re.findall(r"^\.\. auto\w+:: ([\w.]+)$", text_of("docs/reference.md"), re.MULTILINE)
    (promised,) = re.findall(r"- \*\*Public\*\*(.*?)- \*\*", text_of("docs/compatibility.md"), re.DOTALL)
    public = [name for name in ssemiddleware.__all__ if name != "__version__"]
    assert sorted(name for name in shown if "." not in name) == sorted(public)
    for name in shown:
        module, _, attribute = f"ssemiddleware.{name.removeprefix('ssemiddleware.')}".rpartition(".")
        assert hasattr(importlib.import_module(module), attribute)
        assert module == "ssemiddleware" or f"`{module}`" in promised
    (members,) = re.findall(r"autoclass:: Stream\n   :members: (.*)", text_of("docs/reference.md"))
    table = [re.sub(r"\(.*", "", cell.strip("`")) for cell, _ in rows_of("docs/in-your-application.md", "attribute | is")]
    assert sorted(members.split(", ")) == sorted(table)


def test_the_least_versions_of_the_page_are_those_of_the_project() -> None:
    rows = re.findall(r"^\| ([\w.-]+) \| (\d[\w.]*) \|", text_of("docs/compatibility.md"), re.MULTILINE)
    assert len(rows) > 10
    for package, version in rows:
        asked = re.findall(rf'"{re.escape(package)}(?:\[\w+\])?>=([\w.]+)[";]', PYPROJECT)
        assert set(asked) and min(asked, key=lambda each: [*map(int, re.findall(r"\d+", each))]) == version, package


KINDS = {  # the rows of the table of servers
    "gunicorn: sync, gthread, gevent": Gunicorn,
    "gunicorn: gevent_pywsgi": GunicornPywsgi,
    "gunicorn or uvicorn with a2wsgi": A2wsgi,
    "hypercorn with a2wsgi": None,  # of the same class, which finds less there
    "hypercorn's WSGI mode": Hypercorn,
    "waitress": Waitress,
    "cheroot": Cheroot,
    "gevent.pywsgi, patched": PatchedPywsgi,
    "gevent.pywsgi, not patched": UnpatchedPywsgi,
    "werkzeug (`flask run`)": Werkzeug,
    "wsgiref (Django's `runserver`)": Wsgiref,
    "uWSGI": Uwsgi,
    "mod_wsgi": ModWsgi,
    "granian": Granian,
}


def test_the_table_of_servers_has_each_server_and_what_it_gives() -> None:
    rows = rows_of(
        "docs/servers.md",
        "server | a disconnect is seen | heartbeats while the application is silent | a stop is seen | what you have to do",
    )
    assert [name for name, *_ in rows] == list(KINDS)
    assert {kind for kind in KINDS.values() if kind} == set(_KNOWN) - {UnitTest}
    for name, *cells, _ in rows:
        kind = KINDS[name]
        for cell, method in zip(cells, ("connection", "writer", "stop_sign"), strict=True):
            gives = kind is None or getattr(kind, method) is not getattr(BaseServer, method)
            assert kind is None or gives == (not cell.startswith("no")), (name, method)


def test_the_table_of_the_servers_room_is_what_its_files_have() -> None:
    asked = ("connection", "writer", "stop_sign", "pool", "threads", "last_bytes", "delays_others")
    has: dict[str, set[str]] = {}
    for kind in _KNOWN:
        overridden = {name for name in asked if getattr(kind, name) is not getattr(BaseServer, name)}
        has.setdefault(kind.__module__.rpartition(".")[2], set()).update(overridden)
    rows = [line.strip("|").split("|") for line in (servers.__doc__ or "").splitlines() if line.startswith("|")][2:]
    assert [file.strip() for file, *_ in rows] == list(has)
    for file, version, methods, tests in rows:
        document = importlib.import_module(f"ssemiddleware.servers.{file.strip()}").__doc__ or ""
        assert all(number in document for number in re.findall(r"[0-9.]*[0-9]", version.partition(",")[0])), file
        assert [name for name in asked if name in has[file.strip()]] == re.findall(r"\w+", methods)
        for test in re.findall(r"\w+", tests):
            assert (ROOT / f"tests/servers/{test}.py").exists()


def test_the_measured_table_of_servers_is_what_the_live_tests_expect() -> None:
    rows = {name: cells for name, *cells in rows_of("docs/servers.md", f"server | {' | '.join(FACTS)}")}
    assert list(rows) == [str(row) for row in ROWS]
    for row in ROWS:
        words = [re.sub(r", [0-9.]+ s$", "", cell) for cell in rows[str(row)]]
        assert words == [expected(fact, row) for fact in FACTS], row


def test_the_table_of_metrics_is_what_prometheus_and_opentelemetry_get() -> None:
    rows = rows_of("docs/operations.md", "metric | for OpenTelemetry | label | is")
    shown = [tuple(cell.strip("`") for cell in cells) for *cells, _ in rows]
    measured = (*metrics.METRICS, *metrics.METRICS_OF_MEMORY)
    assert shown == [(each.prometheus, each.opentelemetry, each.label) for each in measured]
    (states,) = (said for name, *_, said in rows if name == "`ssemiddleware_memory_state`")
    assert re.findall("([0-9]) ([a-z]+)", states) == [(str(metrics.STATES[state]), state) for state in get_args(State)]


def test_the_alerts_are_on_metrics_that_there_are() -> None:
    (alerts,) = re.findall(r"^Set three alerts: .*?\n\n", text_of("docs/operations.md"), re.MULTILINE | re.DOTALL)
    named = re.findall(r"`(ssemiddleware_\w+)(?:\{reason=\"(.*?)\"\})?`", alerts)
    assert len(named) == 3
    assert {name for name, _ in named} <= {each.prometheus for each in metrics.METRICS}
    assert {reason for _, reason in named} <= {"", *ending.REASONS}


@pytest.mark.parametrize("table", kernel_settings.TABLES, ids=lambda table: table.measure)
def test_the_tables_of_kernel_settings_are_what_is_measured(table: kernel_settings.Table) -> None:
    rows = rows_of("docs/kernel-settings.md", " | ".join(("setting", *table.columns)))
    assert [name for name, *_ in rows] == [kernel_settings.label(table, case) for case in table.cases]


def test_the_page_on_load_has_each_server_that_is_measured() -> None:
    _, results = text_of("docs/load-tests.md").split("<!-- benchmarks: begin -->")
    rows = {tuple(cell.strip() for cell in line.split("|")[1:3]) for line in results.splitlines() if line.startswith("| ")}
    assert {(kind.name, way.partition(" ")[0]) for kind in load.KINDS for way in kind.ways} <= rows


def measured(what: str) -> float:
    """Return a figure of the benchmarks, in the column that is bold."""
    figures: list[str] = re.findall(rf"^\| {re.escape(what)} +\| \*\*([0-9.,]+)", text_of("docs/benchmarks.md"), re.MULTILINE)
    assert len(figures) == 1, what
    return float(figures[0].replace(",", ""))


WORKERS = ("gthread", "gevent")


def test_the_figures_of_join_are_those_of_the_benchmarks() -> None:
    faster = {
        kind: [round(measured(f"events of 58 bytes{kind}, {worker}, announced, join=0.05")) for worker in WORKERS]
        for kind in ("", " from json.dumps")
    }
    page = " ".join(text_of("docs/options.md").split())
    assert (
        "was then {} times as fast as without the middleware on gunicorn's gthread worker, and {} times on".format(*faster[""])
        in page
    )
    with_json = " to ".join(str(times) for times in dict.fromkeys(faster[" from json.dumps"]))
    assert f"{with_json} times with a `json.dumps` for each" in page
    assert "in few writes, {} to {} times as fast".format(*faster[""]) in " ".join(text_of("CHANGELOG.md").split())


@pytest.mark.parametrize(("row", "does"), [(0, "sleeps"), (1, "computes in Python"), (2, "holds the interpreter")])
def test_the_delays_of_join_are_those_of_the_benchmarks(row: int, does: str) -> None:
    late = [measured(f"{worker}, the application then {does}: longest delay of an event") for worker in WORKERS]
    cells = [f"{each / 1000:.0f} s late" if each > 1000 else f"{round(each, -1):.0f} ms late" for each in late]
    head = "after the burst the application | the last events came, with gthread | with gevent"
    assert rows_of("docs/options.md", head)[row][1:] == cells


def test_the_readme_s_figures_of_losses_are_those_of_the_benchmarks() -> None:
    large = [f"events of 1 MB, gthread, {how}" for how in ("announced", "not announced")]
    short = [f"a stream of 3 events, {how}, {worker}" for how in ("announced", "not announced") for worker in WORKERS]
    (least, most), (least_short, most_short) = (spread([round(measured(each), 1) for each in what]) for what in (large, short))
    says = (
        f"a burst of 1 MB events on gthread has {least} to {most} times the bare rate, and streams of three events, one after "
        f"another, {least_short} to {most_short}."
    )
    assert says in " ".join(README.split())


def spread(figures: list[float]) -> tuple[float, float]:
    """Return the least and the most."""
    return min(figures), max(figures)


def test_the_number_of_proxies_is_the_same_in_each_document() -> None:
    assert len({re.sub(r" \(.*\)", "", each.program.name) for each in CONFIGURATIONS}) == 11
    texts = " ".join(" ".join(text_of(name).split()) for name in DOCUMENTS)
    assert set(re.findall(r"(\d+) configurations\b", texts)) == {str(len(CONFIGURATIONS))}
    assert set(re.findall(r"(nine|ten|eleven|twelve|\d+) proxies\b", texts)) == {"eleven"}


def test_the_readme_s_first_screen_names_the_commands_of_a_new_machine() -> None:
    first_screen = text_of("README.md").split("\n")[:40]
    assert {"make demo", "make test"} <= {line.partition("#")[0].strip() for line in first_screen}


def test_the_readme_s_table_of_proxies_is_made_from_what_was_measured(tmp_path: Path) -> None:
    measured = text_of("docs/proxies.md")
    assert proxy_table.summary(measured) in README
    (tmp_path / "README.md").write_text(README, encoding="utf-8")
    proxy_table.write_summary(measured.replace("| 45.8 s |", "| 41.2 s |"), tmp_path / "README.md")
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == README.replace("| 45.8 s |", "| 41.2 s |")


def test_the_readme_names_each_proxy_behind_which_it_does_not_hold_within_a_second() -> None:
    head, _, *rows = [line.split(" | ") for line in proxy_table.summary(text_of("docs/proxies.md")).splitlines()]
    with_it = [(proxy, cell.rpartition("→ ")[2].strip(" |")) for row in rows for proxy, cell in zip(head, row, strict=True)]
    late = {proxy.strip(" |").rpartition(" ")[0] for proxy, cell in with_it if re.match(r"\*\*|\d+\.\d s", cell)}
    assert late == {"HAProxy", "lighttpd", "Envoy", "http-proxy", "Apache", "Varnish"}
    [paragraph] = [text for text in README.split("\n\n") if "[a line of configuration](docs/proxies.md)" in text]
    assert all(name in paragraph for name in {*late, "two nginx in a row"})


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


@each_document
def test_documents_use_the_field_s_words(name: str) -> None:
    assert re.findall(rf"{ODD_WORDS}|\b(?:an?|the|each) leave\b", re.sub(r"\s+", " ", text_of(name)), re.IGNORECASE) == []


@each_document
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text_of(name), flags=re.DOTALL)):
        if target.startswith("https://"):
            continue
        path, _, heading = target.partition("#")
        document = DOCUMENTS[name].parent / path if path else DOCUMENTS[name]
        assert document.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings], target


def test_the_example_of_fragments_is_what_is_sent_and_what_the_reader_there_joins() -> None:
    document = text_of("docs/fragments.md")
    event, fragments = (block.encode() for block in re.findall(r"```event-stream\n(.*?)```", document, re.DOTALL))
    (written,) = re.findall(r"Fragment\((over=\d+, size=\d+)\)", document)
    fragmenting = eval(f"Fragmenting({written})", {"Fragmenting": Fragmenting})
    assert b"".join(fragmenting.feed(event)) == fragments
    (code,) = re.findall(r"```python\n(.*?)```", document, re.DOTALL)
    reader: dict[str, Any] = {}
    exec(code, reader)
    (whole,) = read_events([event])
    pieces = [fragment.data for fragment in read_events([fragments])]
    assert [reader["join"](piece) for piece in pieces] == [None, None, ("greeting", whole.data)]
    torn = [pieces[0], pieces[2], pieces[1], pieces[0], pieces[1], pieces[2]]
    assert [reader["join"](piece) for piece in torn] == [None] * 5 + [("greeting", whole.data)]
    changed = [pieces[0], pieces[1].replace("/45", "/46"), pieces[2]]
    assert [reader["join"](piece) for piece in changed] == [None] * 3
    own = [pieces[0], "0-16/45", pieces[1], pieces[2]]  # one of the application's is among them
    assert [reader["join"](piece) for piece in own] == [None, ("fragment", "0-16/45"), None, None]
    assert reader["join"]("00-1/2\nno number") == ("fragment", "00-1/2\nno number")


@each_document
def test_the_make_commands_exist(name: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    commands = "\n".join(blocks_of("sh", name)) + "".join(
        f"\n{command}" for command in re.findall(r"`(make [a-z-]+)", text_of(name))
    )
    assert set(re.findall(r"^make ([a-z-]+)", commands, re.MULTILINE)) <= targets


@each_document
def test_the_python_commands_exist(name: str) -> None:
    shell = "\n".join([*blocks_of("sh", name), *blocks_of("console", name)])
    sentences = re.findall(r"`python -m ([^`]+ [^`]+)`", " ".join(text_of(name).split()))
    for command in [*re.findall(r"python -m ([^|>#\n]+)", shell), *sentences]:
        module, *arguments = shlex.split(command)
        if module == "ssemiddleware":
            arguments += ["URL"] if arguments == ["doctor"] else []  # a sentence may leave it out
            ssemiddleware.__main__.command_line().parse_args(arguments)
        elif module == "benchmarks":
            benchmarks.__main__.command_line().parse_args(arguments)
        else:
            assert importlib.util.find_spec(module), module


@each_document
def test_terminals_ask_for_what_is_served(name: str) -> None:
    by_demo = {f"/wrapped{rule.rule}" for rule in create_flask_app().url_map.iter_rules()}
    by_document = set(re.findall(r'@app.get\("(.*?)"\)', "".join(blocks_of("python", name))))
    by_benchmarks = {"/wrapped/ready/3/58"}
    asked = re.findall(r"^(?:curl|wrk|ab) .*http://127\.0\.0\.1:8000(\S+)", "\n".join(blocks_of("sh", name)), re.MULTILINE)
    assert set(asked) <= by_demo | by_document | by_benchmarks
    for path in by_benchmarks:
        assert len(list(read_events(Client(served).get(path).iter_encoded()))) == 3


@each_document
def test_nothing_is_installed_from_pypi_before_it_is_there(name: str) -> None:
    assert "not on PyPI yet" not in README or not re.search(r"pip install [^\n]*ssemiddleware(?!-\*)", text_of(name))


def test_no_file_of_the_package_names_an_address_that_is_not_there() -> None:
    for path in (path for path in PACKAGE.rglob("*") if path.suffix in {".py", ".js", ".html"}):
        assert "not on PyPI yet" not in README or "pypi.org/project/ssemiddleware" not in path.read_text(encoding="utf-8"), path


def test_each_action_of_the_workflows_is_pinned_to_a_commit() -> None:
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    lines = [line for path in workflows for line in path.read_text(encoding="utf-8").splitlines() if "uses:" in line]
    assert lines
    for line in lines:
        assert re.fullmatch(r"\s+- uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_the_make_commands_of_ci_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for path in (*(ROOT / ".github").rglob("*.yml"), *(ROOT / ".github").glob("*.md"), ROOT / ".ci" / "run"):
        for command in re.findall(r"(?:^| |`)make ([a-z-]+)\b(?=$|`| TOX)", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert re.search(rf"^{command}:", makefile, re.MULTILINE), (path, command)


def test_the_test_files_that_commands_name_exist() -> None:
    """pytest ends with an error, after all other tests passed, where a file was renamed."""
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in ("setup.cfg", "Makefile", ".ci/run")]
    named = {path for text in texts for path in re.findall(r"\btests/[\w/.]+\.py", text)}
    assert named
    for path in named:
        assert (ROOT / path).exists(), path


def test_the_version_to_come_stands_in_the_changelog() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.*)$", changelog, re.MULTILINE)
    assert sections[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ - \d{4}-\d\d-\d\d", section) for section in sections[1:])
    version = ssemiddleware.__version__
    assert f"To become {version}." in changelog or sections[1].startswith(f"{version} - ")


def test_python_versions_agree_wherever_they_stand() -> None:
    (readme,) = re.findall(r"CPython ([0-9., ]+[0-9]) ·", README)
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    environments = re.findall(r"py3(\d+)", setup["tox:tox"]["env_list"])
    classifiers = re.findall(r"Python :: 3\.(\d+)", PYPROJECT)
    assert readme.split(", ") == [f"3.{minor}" for minor in classifiers] == [f"3.{minor}" for minor in environments]
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    (matrix,) = re.findall(r"python: \[(.*)\]", workflow)
    assert matrix == ", ".join(f'"3.{minor}"' for minor in classifiers)
    assert f"| CPython | {readme} |" in text_of("docs/compatibility.md")
    assert f'requires-python = ">=3.{classifiers[0]}"' in PYPROJECT


def example(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module(name)


def test_the_examples_in_the_table_are_those_there_are() -> None:
    names = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
    assert sorted(file for file, _ in rows_of("examples/README.md", "file | shows")) == [f"[{name}]({name})" for name in names]


def test_an_endless_example_ends_when_the_server_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    application = SSEMiddleware(example("flask_clock", monkeypatch).app.wsgi_app.options.application)
    with open_stream(application, "/clock") as stream:
        stream.next_event()
        application.drain()
        assert len(list(stream)) <= 1
    assert dict(application.stats().ended) != {"client gone": 1}


def test_the_flask_example_continues_after_the_last_event_id(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_stream(example("flask_clock", monkeypatch).app, "/clock", headers={"Last-Event-ID": "41"}) as stream:
        event = stream.next_event()
        assert (event.event, event.id) == ("tick", "42")


def test_the_chat_example_stops_working_when_its_client_disconnects(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = example("chat", monkeypatch)
    with open_stream(chat.app, "/chat", method="POST", data="Well? " * 1000) as stream:
        assert json.loads(stream.next_event().data) == {"token": "You "}
    assert chat.app.wsgi_app.stats().open == 0


def test_the_django_example_is_not_held_back_by_gzip(monkeypatch: pytest.MonkeyPatch) -> None:
    django_countdown = example("django_countdown", monkeypatch)
    from django.test import override_settings

    settings = override_settings(ROOT_URLCONF="django_countdown", MIDDLEWARE=["django.middleware.gzip.GZipMiddleware"])
    with settings, open_stream(django_countdown.application, "/countdown", headers={"Accept-Encoding": "gzip"}) as stream:
        assert "Content-Encoding" not in stream.headers
        assert [stream.next_event().data, stream.next_event().data] == ["5", "4"]


def test_the_queue_example_reaches_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    queue_broadcast = example("queue_broadcast", monkeypatch)
    with open_stream(queue_broadcast.application, "/events") as stream:
        published = Client(queue_broadcast.application).post("/publish", data=b"Hello!\nYou?")
        assert published.status_code == 204
        assert stream.next_event().data == "Hello!\nYou?"
    assert queue_broadcast.mailboxes == set()
    assert no_source_is_left()


def test_the_redis_example_asks_for_redis_only_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    app = example("redis_broadcast", monkeypatch).app
    assert {rule.rule for rule in app.url_map.iter_rules()} >= {"/events", "/publish"}


def modules() -> list[str]:
    found = pkgutil.walk_packages(ssemiddleware.__path__, "ssemiddleware.")
    return [name for _, name, _ in found if not name.startswith(("ssemiddleware.__main__", "ssemiddleware.demo."))]


@pytest.mark.parametrize("name", modules())
def test_the_examples_in_docstrings_run(name: str) -> None:
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert failed == 0


def test_nothing_happens_on_import() -> None:
    code = (
        "import sys, threading, logging; import ssemiddleware;"
        "assert threading.active_count() == 1; assert not logging.getLogger('ssemiddleware').handlers;"
        "extras = {'flask', 'django', 'gevent', 'gunicorn', 'opentelemetry', 'prometheus_client', 'httpx', 'rich',"
        "    'backports.zstd', 'ssemiddleware.compression.zstd'};"
        "assert not extras & set(sys.modules), 'imports an extra'"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT, timeout=60)


# -- the rooms

PACKAGE = Path(ssemiddleware.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "demo")
ROOMS = {path: path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}
WORDS = r"\b(?:chunk|packet|ping|relay|(?<!signal )handler|manager|(?<!werkzeug\.)utils|helper)\w*\b"
SERVERS = r"gunicorn|waitress|uwsgi|werkzeug\.s|granian|cheroot|a2wsgi|hypercorn|mod_wsgi|pywsgi"

# Each level may import those above its own, and none beside or below (DESIGN.md, 4; what is only for types is left out).
LEVELS = [
    {"compression", "event_stream", "memory", "servers", "baton", "collecting", "ending", "per_key", "source"},
    {"canary", "handle", "oversized", "request", "response", "stats"},
    {"admission", "lint", "options", "reading", "refusing", "start", "starting_line", "watcher", "wire"},
    {"encoded_wire", "outside"},
    {"doctor", "service", "testing"},
    {"care", "stream"},
    {"joining"},
    {"streams"},
    {"middleware"},
    {"commands", "metrics", "spans", "wrapping"},
    {"opentelemetry", "prometheus"},
    {"__init__", "__main__"},
]
KNOW_NOTHING = {"event_stream": set(), "memory": set(), "servers": set(), "handle": {"source"}, "oversized": {"event_stream"}}
PURE = {
    "compression", "encoded_wire", "event_stream", "oversized", "doctor", "lint", "wire", "response", "request", "reading",
    "refusing", "stats",
}  # fmt: skip
WITH_EFFECTS = {
    "asyncio", "io", "mmap", "multiprocessing", "os", "pathlib", "queue", "random", "select", "selectors", "signal", "socket",
    "ssl", "subprocess", "tempfile", "threading", "time",
}  # fmt: skip


def each_file(*, of: Iterable[str] = (), but: Iterable[str] = ()) -> pytest.MarkDecorator:
    """Give a test each file of the rooms named, of all by default, *but* of these."""
    rooms = (set(of) or set(ROOMS.values())) - set(but)
    files = [path for path in FILES if ROOMS[path] in rooms]
    return pytest.mark.parametrize("path", files, ids=lambda path: path.relative_to(PACKAGE).as_posix())


def imports_of(path: Path, *, types_too: bool = False) -> set[str]:
    """Return the modules that a file imports, by their whole names; also those inside of functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    only_types = {
        id(statement)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for statement in ast.walk(block)
    }
    found = set()
    package = ["ssemiddleware", *path.relative_to(PACKAGE).parent.parts]
    for statement in ast.walk(tree):
        if id(statement) in only_types and not types_too:
            continue
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            base = ".".join([*package[: len(package) + 1 - statement.level], *filter(None, [statement.module])])
            base = base if statement.level else str(statement.module)
            found.add(base)
            found |= {f"{base}.{alias.name}" for alias in statement.names if _is_module(f"{base}.{alias.name}")}
    return found


def _is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def rooms_of(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("ssemiddleware.")}


def level_of(room: str) -> int:
    (level,) = [index for index, rooms in enumerate(LEVELS) if room in rooms]
    return level


@each_file()
def test_imports_go_down_only(path: Path) -> None:
    room = ROOMS[path]
    imported = rooms_of(imports_of(path)) - {room}
    assert [other for other in imported if level_of(other) >= level_of(room)] == []


@each_file(of=KNOW_NOTHING)
def test_some_rooms_know_nothing_of_ours(path: Path) -> None:
    room = ROOMS[path]
    assert rooms_of(imports_of(path, types_too=True)) - {room} <= KNOW_NOTHING[room]


def test_modules_import_each_other_in_no_circle() -> None:
    names = {path: "ssemiddleware." + ".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in FILES}
    names = {path: name.removesuffix(".__init__") for path, name in names.items()}
    graph = {name: (imports_of(path) & set(names.values())) - {name} for path, name in names.items()}
    for name in graph:  # a package is run before its modules, and may import them: what they ask of each other counts
        graph[name] = {other for other in graph[name] if not name.startswith(other + ".")}
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        assert name not in above, " -> ".join([*above, name])
        if name not in done:
            for other in graph[name]:
                visit(other, (*above, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@each_file(but=["servers", "__main__"])
def test_only_servers_names_a_server(path: Path) -> None:
    statements = re.sub(r'""".*?"""|#.*', "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert not re.search(SERVERS, statements)


STARTS_THREADS = {
    "watcher.py": "the one thread beside the application's, and the one for its callbacks",
    "source.py": "for those who ask: Stream.each",
    "testing.py": "a deadline in a unit test",
}


@each_file()
def test_only_the_watcher_starts_a_thread_but_for_those_named(path: Path) -> None:
    starts = re.search(r"\bThread\(|\b_thread\b|Timer\(", path.read_text(encoding="utf-8"))
    assert bool(starts) == (path.relative_to(PACKAGE).as_posix() in STARTS_THREADS)


@each_file(of=PURE)
def test_pure_rooms_have_no_input_no_thread_and_no_clock(path: Path) -> None:
    assert {name.split(".")[0] for name in imports_of(path)} & WITH_EFFECTS == set()
    names = {node.id for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Name)}
    assert names & {"open", "print", "input", "__import__"} == set()


@each_file(but=["servers"])  # servers have their own words
def test_words_that_say_little_are_not_used(path: Path) -> None:
    assert re.findall(WORDS, re.sub(r"\s+", " ", path.read_text(encoding="utf-8"))) == []


TEXTS = sorted(
    path
    for folder in (PACKAGE, ROOT / "tests", ROOT / "benchmarks", ROOT / "examples", ROOT / "docs")
    for ending in ("py", "js", "mjs", "html", "css")
    for path in folder.rglob(f"*.{ending}")
    if path != Path(__file__)
)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: "/".join(path.parts[-3:]))
def test_odd_words_are_not_used(path: Path) -> None:
    """In names neither, whose underlines are spaces."""
    text = re.sub(r"(?:User|--user) nobody", "", re.sub(r"\s+(?:# )?", " ", path.read_text(encoding="utf-8")))
    assert re.findall(ODD_WORDS, re.sub(r"_", " ", text), re.IGNORECASE) == []
