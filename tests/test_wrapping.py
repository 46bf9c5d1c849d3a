"""`wrap`: an application by its name, for a server's command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ssemiddleware import Event, read_events, wrap

from .applications import Response, application_of, environ_of

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


def create_app(count: int = 1, *, data: str = "x") -> WSGIApplication:
    return application_of([bytes(Event(data))] * count)


app = create_app()


class namespace:
    app = app


WRAPPED = {"app": 1, "create_app()": 1, "create_app(3, data='y')": 3, "namespace.app": 1, " create_app( 2 ) ": 2}


@pytest.mark.parametrize("expression", WRAPPED)
def test_wrap_takes_a_name_or_a_factory(expression: str) -> None:
    middleware = wrap(f"{__name__}:{expression}", heartbeat=20)
    assert middleware.options.heartbeat == 20
    assert len(list(read_events(Response(middleware, environ_of()).blocks()))) == WRAPPED[expression]


@pytest.mark.parametrize(
    "name",
    [
        "app",
        ":app",
        "module:",
        "module:create_app(",
        "module:create_app(f())",
        "module:f(**x)",
        "module:f(**{'a': 1})",
        "module:f()()",
        "module:1+1 2",
        "",
        None,
    ],
)
def test_wrap_refuses_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match=r'name must be "module:attribute" or "module:factory\(literal arguments\)", got'):
        wrap(name)


def test_wrap_says_what_is_missing() -> None:
    with pytest.raises(ImportError, match="no_such_module"):
        wrap("no_such_module:app")
    with pytest.raises(AttributeError, match="no_such_app"):
        wrap(f"{__name__}:no_such_app")
    with pytest.raises(ValueError, match="heartbeat must be"):
        wrap(f"{__name__}:app", heartbeat=0)


def test_wrap_shows_what_an_import_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_with_a_fault.py").write_text("import missing_dependency\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'missing_dependency'$"):
        wrap("shop_with_a_fault:app")
