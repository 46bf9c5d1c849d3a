"""What the documentation has from elsewhere: the table of options from a docstring, and llms.txt from the pages.

python docs/generated.py    # writes the table into docs/options.md again
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

from ssemiddleware import MemoryGovernor, SSEMiddleware

HERE = Path(__file__).parent
_BEGIN, _END = "<!-- options: begin -->\n", "<!-- options: end -->\n"
_OPTION = re.compile(r"\*(\w+)\*: (.*)", re.DOTALL)  # a paragraph of the docstring
_CONTENTS = re.compile(r"```\{toctree\}\n:caption: (.*)\n((?:.*\n)*?)```")
_INCLUDE = re.compile(r"```\{include\} (.*)\n(?::.*\n)*```\n")
_FIRST_SENTENCE = re.compile(r".*?(?:[.?](?= )|$)")


def options_table() -> str:
    """Return the options as a table in Markdown: names and defaults from the signature, the rest from the docstring."""
    paragraphs = (inspect.getdoc(SSEMiddleware) or "").split("\n\n")
    texts = {match[1]: " ".join(match[2].split()).replace("``", "`") for match in map(_OPTION.fullmatch, paragraphs) if match}
    defaults: dict[str, object] = SSEMiddleware.__init__.__kwdefaults__ or {}
    rows = [f"| `{name}` | `{_shown(default)}` | {texts[name]} |" for name, default in defaults.items()]
    return "\n".join(["| option | default | is |", "|---|---|---|", *rows]) + "\n"


def _shown(default: object) -> str:
    if isinstance(default, MemoryGovernor):
        return "MemoryGovernor()"
    return default.__name__ if inspect.isfunction(default) else repr(default)


def with_options(page: str) -> str:
    """Return docs/options.md with the table as it should be."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n{options_table()}\n{_END}{after}"


def contents(folder: Path = HERE) -> dict[str, list[str]]:
    """Return the names of the pages, by the captions under which index.md has them."""
    index = (folder / "index.md").read_text(encoding="utf-8")
    return {
        caption: [line for line in lines.split("\n") if line and line[0] != ":"] for caption, lines in _CONTENTS.findall(index)
    }


def page(name: str, folder: Path = HERE) -> str:
    """Return a page's Markdown, with what it includes in its place."""
    text = (folder / f"{name}.md").read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda match: (folder / match[1]).read_text(encoding="utf-8"), text)


def llms_txt(folder: Path = HERE) -> str:
    """Return what https://llmstxt.org asks for: what this is, and each page with its first sentence."""
    return "\n".join([f"# ssemiddleware\n\n> {_begin('index', folder)[1]}", *_sections(folder)]) + "\n"


def _sections(folder: Path) -> Iterator[str]:
    for caption, names in contents(folder).items():
        yield f"\n## {caption}\n"
        for name in names:
            title, sentence = _begin(name, folder)
            yield f"- [{title}]({name}.md): {sentence}"


def _begin(name: str, folder: Path) -> tuple[str, str]:
    """Return a page's title, and the first sentence of its first paragraph."""
    title, paragraph = page(name, folder).split("\n\n")[:2]
    (sentence, *_) = _FIRST_SENTENCE.findall(" ".join(paragraph.split()))
    return title.removeprefix("# "), sentence


if __name__ == "__main__":
    options = HERE / "options.md"
    options.write_text(with_options(options.read_text(encoding="utf-8")), encoding="utf-8")
