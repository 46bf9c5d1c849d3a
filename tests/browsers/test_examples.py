"""The pages of the examples in Chromium, WebKit and Firefox, with the libraries whose versions and hashes they name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from ..npm import folder_with
from .conftest import serving
from .driving import Browser
from .local_libraries import CDN

pytestmark = [pytest.mark.live, pytest.mark.timeout(480)]  # npm and a browser may be slow to start

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
WITHIN = 30.0  # seconds; two or three are usual

# Returns the texts that a part of the page has had, one after the other, up to the first that matches.
WATCH = """
const [selector, last] = arguments, texts = [];
while (!texts.length || !RegExp(last).test(texts[texts.length - 1])) {
    const text = document.querySelector(selector).textContent.trim();
    if (text !== texts[texts.length - 1]) texts.push(text);
    await new Promise(resolve => setTimeout(resolve, 5));
}
return texts;
"""


def watch(browser: Browser, url: str, selector: str, last: str, script: str = "") -> list[str]:
    """Open the page, run a script, and return the texts that a part of it has, up to the first that matches *last*."""
    browser.open(url)
    return watch_on(browser, selector, last, script)


def watch_on(browser: Browser, selector: str, last: str, script: str = "") -> list[str]:
    """Do the same with the page that is open."""
    return cast("list[str]", browser.run(script + WATCH, selector, last, timeout=WITHIN))


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the packages that the pages load, each called ``name@version`` as a CDN has it."""
    pages = "".join(path.read_text(encoding="utf-8") for path in (*EXAMPLES.glob("*.py"), HERE / "polyfill.py"))
    names = sorted(set(re.findall(re.escape(CDN) + r"((?:@[^/]+/)?[^/@]+@[^/]+)", pages)))
    installed = folder_with(tuple(names), tmp_path_factory) / "node_modules"
    folder = tmp_path_factory.mktemp("packages")
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(installed / name.rpartition("@")[0])
    return folder


@pytest.fixture
def example(request: pytest.FixtureRequest, packages: Path, tmp_path: Path) -> Iterator[str]:
    """Start an example, and return the address of its page."""
    options = ("--chdir", str(HERE), "--pythonpath", str(EXAMPLES), "--worker-class", "gthread", "--threads", "50")
    application = f"local_libraries:create_application({request.param!r}, {str(packages)!r})"
    with serving(tmp_path, lambda fd: ("-m", "gunicorn", *options, "--bind", f"fd://{fd}", application)) as server:
        yield server.url
    assert "Traceback" not in (tmp_path / "log").read_text()


def page_of(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("example", [name], indirect=True)


@page_of("chat")
def test_the_chat_shows_an_answer_as_it_comes(browser: Browser, example: str) -> None:
    texts = watch(browser, example, "#answer", "so[.]$", "document.querySelector('button').click();")
    assert texts[-1] == "You asked: How are you? I think so."
    assert len(texts) > 3
    assert all(map(texts[-1].startswith, texts))


@page_of("htmx_news")
def test_htmx_adds_each_item_to_the_list(browser: Browser, example: str) -> None:
    *_, before, last = watch(browser, example, "ul", "Item 3")
    assert (before, last) == ("Item 1: 1 < 2Item 2: 1 < 2", "Item 1: 1 < 2Item 2: 1 < 2Item 3: 1 < 2")


@page_of("datastar_clock")
def test_datastar_shows_the_time_as_it_goes_on(browser: Browser, example: str) -> None:
    (time,) = watch(browser, example, "#clock", r"^\d\d:\d\d:\d\d$")[-1:]
    (later,) = watch_on(browser, "#clock", f"^(?!{time}).")[-1:]
    assert re.fullmatch(r"\d\d:\d\d:\d\d", later)


@page_of("react_progress")
def test_react_shows_the_progress_of_the_job(browser: Browser, example: str) -> None:
    texts = watch(browser, example, "#root", "^100 %$")
    assert len(texts) > 3, texts
    percents = [int(text.removesuffix(" %")) for text in texts if text]
    assert percents == sorted(percents)


@page_of("polyfill")
def test_a_polyfill_goes_on_where_its_stream_has_ended(browser: Browser, example: str) -> None:
    assert watch(browser, example, "#events", "3")[-1] == "1 2 3"
