"""`wrap`: wrap an application by its name, on a server's command line, without a change to its code.

gunicorn "ssemiddleware:wrap('shop.web:create_app()', heartbeat=20)"
"""

from __future__ import annotations

import ast
import importlib
from typing import Any

from .middleware import SSEMiddleware
from .options import check


def wrap(name: str, /, **options: object) -> SSEMiddleware:
    """Return the application called *name*, wrapped.

    *name* is ``"module:attribute"``, or ``"module:factory(literal, arguments='too')"`` as for gunicorn. *options* are those of
    `SSEMiddleware`. Raises `ValueError` for any other name, and whatever the import raises.
    """
    allowed = '"module:attribute" or "module:factory(literal arguments)"'
    module, colon, expression = name.partition(":") if isinstance(name, str) else ("", "", "")
    check("name", name, lambda _: bool(module and colon and expression), allowed)
    try:
        node = ast.parse(expression.strip(), mode="eval").body
        call = node if isinstance(node, ast.Call) else None
        attribute = ast.unparse(call.func if call else node)
        arguments = [ast.literal_eval(argument) for argument in call.args] if call else []
        keywords = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords} if call else {}
        if None in keywords or not all(part.isidentifier() for part in attribute.split(".")):
            raise ValueError
    except (SyntaxError, ValueError):
        raise ValueError(f"name must be {allowed}, got {name!r}") from None
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return SSEMiddleware(found(*arguments, **keywords) if call else found, **options)  # type: ignore[arg-type]  # checked there
