"""What the documents say is true: examples run, and facts that stand twice agree."""

from __future__ import annotations

import configparser
import doctest
import importlib
import pkgutil
import re
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import ssemiddleware
from ssemiddleware import SSEMiddleware, read_events, wrap
from ssemiddleware.oversized.fragment import Fragmenting
from ssemiddleware.testing import open_stream

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def blocks_of(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_readme_s_python_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from django.conf import settings

    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF="tests.test_documents")
    handlers: dict[int, Any] = {}
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    namespace: dict[str, Any] = {"__name__": "readme"}
    for block in blocks_of("python"):
        exec(compile(block, "README.md", "exec"), namespace)
    tests = [value for name, value in namespace.items() if name.startswith("test_")]
    assert len(tests) == 1
    for test in tests:
        test()
    assert namespace["announced"]({"PATH_INFO": "/chat"})
    assert not namespace["announced"]({"PATH_INFO": "/"})
    with pytest.raises(SystemExit):
        handlers[signal.SIGTERM](signal.SIGTERM, None)
    assert namespace["application"]._drain, "the streams end"


urlpatterns: list[object] = []


def test_the_readme_s_gunicorn_command_finds_its_application(monkeypatch: pytest.MonkeyPatch) -> None:
    shop = types.ModuleType("shop.web")
    shop.create_app = lambda: lambda environ, start_response: []  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shop", types.ModuleType("shop"))
    monkeypatch.setitem(sys.modules, "shop.web", shop)
    (expression,) = re.findall(r'gunicorn .*"ssemiddleware:(wrap\(.*\))"', README)
    middleware = eval(expression, {"wrap": wrap})
    assert isinstance(middleware, SSEMiddleware)
    assert middleware.heartbeat == 20


def test_the_readme_s_options_are_those_there_are() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", README, re.MULTILINE)
    defaults = SSEMiddleware.__init__.__kwdefaults__ or {}
    assert [name for name, _ in rows] == list(defaults)
    for name, shown in rows:
        default = eval(shown, vars(ssemiddleware))
        assert repr(default) == repr(defaults[name]), name


def test_the_example_of_fragments_is_what_leaves_and_what_the_reader_there_joins() -> None:
    document = (ROOT / "docs" / "fragments.md").read_text(encoding="utf-8")
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


def test_the_readme_s_make_commands_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)", "\n".join(blocks_of("sh")), re.MULTILINE)) <= targets


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


def test_the_flask_example_goes_on_where_a_client_left_off(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_stream(example("flask_clock", monkeypatch).app, "/clock", headers={"Last-Event-ID": "41"}) as stream:
        event = stream.next_event()
        assert (event.event, event.id) == ("tick", "42")


def test_the_chat_example_is_announced_by_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    application = example("chat", monkeypatch).application
    with open_stream(application, "/chat", method="POST", data="Well?", headers={"Accept": "*/*"}) as stream:
        assert [event.data for event in stream][-1] == "[DONE]"
        assert stream.received.startswith(b":\n")


def test_the_django_example_is_not_held_back_by_gzip(monkeypatch: pytest.MonkeyPatch) -> None:
    django_countdown = example("django_countdown", monkeypatch)
    from django.test import override_settings

    settings = override_settings(ROOT_URLCONF="django_countdown", MIDDLEWARE=["django.middleware.gzip.GZipMiddleware"])
    with settings, open_stream(django_countdown.application, "/countdown", headers={"Accept-Encoding": "gzip"}) as stream:
        assert "Content-Encoding" not in stream.headers
        assert [stream.next_event().data, stream.next_event().data] == ["5", "4"]


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


WORDS = r"\b(?:chunk|packet|ping|(?<!signal )handler|manager|(?<!werkzeug\.)utils|helper)\w*\b"


def test_only_servers_names_a_server_and_only_relay_py_starts_a_thread() -> None:
    package = ROOT / "ssemiddleware"
    for path in package.rglob("*.py"):
        room = path.relative_to(package).parts[0]
        if room == "demo":
            continue
        code = path.read_text(encoding="utf-8")
        if room not in ("servers", "__main__.py", "testing.py"):
            statements = re.sub(r'""".*?"""|#.*', "", code, flags=re.DOTALL)
            assert not re.search(r"gunicorn|waitress|uwsgi|werkzeug\.s|granian|cheroot", statements), path
        assert ("threading.Thread(" in code) == (path.name == "relay.py"), path
        if room in ("event_stream", "oversized", "reading.py", "response.py"):
            assert not re.search(r"^import (time|threading|os|socket)", code, re.MULTILINE), path
        assert not re.search(WORDS, code), (path, re.search(WORDS, code))
