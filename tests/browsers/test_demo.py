"""The demo's card of a large event in Chromium, WebKit and Firefox: times, equality, and a bar that fills."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest

from .conftest import Server
from .driving import Browser

pytestmark = pytest.mark.live

WITHIN = 20.0  # seconds; about one is usual
WAYS = ["plain", "folded", "fragments"]

# Sets the slider as a hand does, presses the button, and returns what the card shows when the run has ended.
RUN = """
const [size, stopped] = arguments;
const card = document.getElementById("large");
const button = card.querySelector("[data-run=large]");
const until = async holds => { while (!holds()) await new Promise(resolve => setTimeout(resolve, 10)); };
const texts = selector => Array.from(card.querySelectorAll(selector), part => part.textContent);
await until(() => document.querySelector("#curl-lines li"));  // the page's last step, and all buttons are ready
const slider = document.getElementById("large-size");
slider.value = size;
slider.dispatchEvent(new Event("input", {bubbles: true}));
const progress = card.querySelector("progress");
const arrived = [];
new MutationObserver(() => arrived.push(progress.position)).observe(progress, {attributes: true});
button.click();
if (stopped) button.click();
await until(() => button.textContent !== "Stop");
return {
    slider: [slider.min, slider.max, texts("#large-size-in-words")[0]],
    ways: texts(".panel .name"), states: texts(".panel .state"), values: texts(".panel .value"), notes: texts(".panel .note"),
    times: texts("#large-chart .time"),
    bars: Array.from(card.querySelectorAll("#large-chart .bar span"), bar => bar.clientWidth),
    arrived, percent: texts(".progress span")[0], result: texts(".result")[0],
};
"""


def run_card(browser: Browser, demo: Server, size: int, *, stopped: bool = False) -> dict[str, Any]:
    """Run the card with *size* MB, and stop it at once if it is to be *stopped*; return what it shows."""
    browser.open(demo.url)
    return cast("dict[str, Any]", browser.run(RUN, size, stopped, timeout=WITHIN))


def test_the_card_of_a_large_event_shows_three_ways_their_times_and_their_progress(browser: Browser, demo: Server) -> None:
    card = run_card(browser, demo, 2)
    assert card["slider"] == ["1", "50", "2 MB"]
    assert card["ways"] == WAYS
    assert card["states"] == ["CLOSED, done"] * 3
    assert all(re.fullmatch("[0-9,]+ ms", time) for time in card["times"]), card["times"]
    assert card["values"] == card["times"]
    assert card["notes"] == [
        "Came on 1 line. Equal to what was sent.",
        "Came on 33 lines. Equal to what was sent.",
        "Came in 31 fragments. Equal to what was sent.",
    ]
    times = ", ".join(f"{way} {time}" for way, time in zip(WAYS, card["times"], strict=True))
    assert card["result"].startswith(f"2 MB: {times}. ")
    assert card["result"].endswith("All three are equal to what was sent.")
    assert all(bar > 0 for bar in card["bars"])
    assert card["arrived"] == sorted(card["arrived"])
    assert (card["arrived"][-1], card["percent"]) == (1, "100 %")


def test_a_run_of_the_card_can_be_stopped(browser: Browser, demo: Server) -> None:
    card = run_card(browser, demo, 1, stopped=True)
    assert card["result"] == "Stopped."
    assert card["states"] == ["not run"] * 3


@pytest.mark.parametrize("browser", ["webkit"], indirect=True)
def test_webkit_is_spared_a_line_that_would_stop_its_tab(browser: Browser, demo: Server) -> None:
    card = run_card(browser, demo, 6)
    assert card["states"] == ["left out", "CLOSED, done", "CLOSED, done"]
    assert card["result"].endswith("Both are equal to what was sent. Plain was left out.")
