"""What the documents say is true: examples run, and facts that stand twice agree."""

from __future__ import annotations

import ast
import configparser
import contextlib
import doctest
import importlib
import itertools
import pkgutil
import re
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, request
from werkzeug.test import Client

import ssemiddleware
from ssemiddleware import Event, SSEMiddleware, prometheus, read_events, wrap
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

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
DOCUMENTS = {path.relative_to(ROOT).as_posix(): path for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))}

each_document = pytest.mark.parametrize("name", DOCUMENTS)
urlpatterns: list[object] = []


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


def test_the_readme_s_queues_reach_every_client_and_go_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    readme = run("README.md", monkeypatch)
    mailboxes = readme["mailboxes"]
    with open_stream(readme["app"], "/chat") as one, open_stream(readme["app"], "/chat") as other:
        (publish,) = re.findall(r"# to publish: (.*)", README)
        exec(publish, readme)
        assert one.next_event().data == other.next_event().data == "text"
        assert len(mailboxes) == 2
    assert mailboxes == set()
    assert no_source_is_left()


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
    for expression in re.findall(r'gunicorn .*"ssemiddleware:(wrap\(.*\))"', text_of(name)):
        middleware = eval(expression, {"wrap": wrap})
        assert isinstance(middleware, SSEMiddleware)
        assert middleware.options.heartbeat == (20 if "heartbeat" in expression else 15.0)


# -- their tables and facts


def test_the_options_in_the_table_are_those_there_are() -> None:
    rows = rows_of("docs/options.md", "option | default | is")
    defaults = SSEMiddleware.__init__.__kwdefaults__ or {}
    assert [name.strip("`") for name, _, _ in rows] == list(defaults)
    for name, shown, _ in rows:
        default = eval(shown.strip("`"), vars(ssemiddleware))
        assert repr(default) == repr(defaults[name.strip("`")]), name


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


def test_the_table_of_metrics_is_what_prometheus_gets() -> None:
    rows = rows_of("docs/operations.md", "metric | label | is")
    metrics = (*prometheus._METRICS, *prometheus._METRICS_OF_MEMORY)
    assert [(name.strip("`"), label.strip("`")) for name, label, _ in rows] == [(each.name, each.label) for each in metrics]


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


@each_document
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text_of(name), flags=re.DOTALL)):
        if target.startswith("https://") or "/plots/" in target:  # made by `make bench`
            continue
        path, _, heading = target.partition("#")
        document = DOCUMENTS[name].parent / path if path else DOCUMENTS[name]
        assert document.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings], target


def test_the_example_of_fragments_is_what_leaves_and_what_the_reader_there_joins() -> None:
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


def test_python_versions_agree_wherever_they_stand() -> None:
    (readme,) = re.findall(r"CPython ([0-9., ]+[0-9]) ·", README)
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    environments = re.findall(r"py3(\d+)", setup["tox:tox"]["env_list"])
    classifiers = re.findall(r"Python :: 3\.(\d+)", PYPROJECT)
    assert readme.split(", ") == [f"3.{minor}" for minor in classifiers] == [f"3.{minor}" for minor in environments]
    assert f'requires-python = ">=3.{classifiers[0]}"' in PYPROJECT


def example(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT / "examples")
    return importlib.import_module(name)


def test_an_endless_example_ends_when_the_server_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    application = SSEMiddleware(example("flask_clock", monkeypatch).app.wsgi_app.options.application)
    with open_stream(application, "/clock") as stream:
        stream.next_event()
        application.drain()
        assert len(list(stream)) <= 1
    assert dict(application.stats().ended) != {"client gone": 1}


def test_the_flask_example_goes_on_where_a_client_left_off(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_stream(example("flask_clock", monkeypatch).app, "/clock", headers={"Last-Event-ID": "41"}) as stream:
        event = stream.next_event()
        assert (event.event, event.id) == ("tick", "42")


def test_the_chat_example_is_announced_by_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    application = example("chat", monkeypatch).application
    with open_stream(application, "/chat", method="POST", data="Well?", headers={"Accept": "*/*"}) as stream:
        assert [event.data for event in stream][-1] == "[DONE]"
        assert stream.headers["X-Accel-Buffering"] == "no"
        assert application.options.announced({"PATH_INFO": "/chat"})


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
        "assert not {'flask', 'django', 'gevent', 'gunicorn', 'prometheus_client'} & set(sys.modules), 'imports an extra'"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT, timeout=60)


# -- the rooms

PACKAGE = ROOT / "ssemiddleware"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "demo")
ROOMS = {path: path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}
WORDS = r"\b(?:chunk|packet|ping|relay|(?<!signal )handler|manager|(?<!werkzeug\.)utils|helper)\w*\b"
SERVERS = r"gunicorn|waitress|uwsgi|werkzeug\.s|granian|cheroot|a2wsgi|hypercorn|mod_wsgi|pywsgi"

# Each level may import those above its own, and none beside or below (DESIGN.md, 4; what is only for types is left out).
LEVELS = [
    {"event_stream", "memory", "servers", "baton", "ending", "per_key", "source"},
    {"handle", "oversized", "request", "response", "stats"},
    {"admission", "options", "reading", "refusing", "start", "starting_line", "watcher", "wire"},
    {"outside"},
    {"service", "testing"},
    {"care", "stream"},
    {"middleware"},
    {"prometheus", "wrapping"},
    {"__init__", "__main__"},
]
KNOW_NOTHING = {"event_stream": set(), "memory": set(), "servers": set(), "handle": {"source"}, "oversized": {"event_stream"}}
PURE = {"event_stream", "oversized", "wire", "response", "request", "reading", "refusing", "stats"}
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
    path = ROOT.joinpath(*name.split("."))
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
