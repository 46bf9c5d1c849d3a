"""Settings of the documentation site, which `make docs` builds. Nothing is fetched, neither then nor by a reader's browser."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import generated  # noqa: E402
from pygments.lexers.special import TextLexer  # noqa: E402

import ssemiddleware  # noqa: E402

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "ssemiddleware"
author = "the maintainers of ssemiddleware"
release = ssemiddleware.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
nitpicky = True  # a link that leads nowhere is a warning, and `make docs` takes a warning for an error
nitpick_ignore = [("py:class", "ssemiddleware.handle._T")]
nitpick_ignore_regex = [("py:.*", r"(?!ssemiddleware\b).*")]  # names of other packages, whose pages are on the network

myst_heading_anchors = 3
default_role = "py:obj"  # so that `Stream` in a docstring is a link
autodoc_preserve_defaults = True
autodoc_typehints = "description"
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = "ssemiddleware"
html_show_sphinx = False


def setup(app: Sphinx) -> None:
    """Have llms.txt and the pages' Markdown written beside the pages."""
    app.add_lexer("event-stream", TextLexer)
    app.connect("build-finished", _write_markdown)


def _write_markdown(app: Sphinx, error: Exception | None) -> None:
    if error is not None:
        return
    folder = Path(app.outdir)
    (folder / "llms.txt").write_text(generated.llms_txt(), encoding="utf-8")
    for names in generated.contents().values():
        for name in names:
            (folder / f"{name}.md").write_text(generated.page(name), encoding="utf-8")
