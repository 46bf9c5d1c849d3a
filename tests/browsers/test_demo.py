"""The demo's card of a large event in Chromium, WebKit and Firefox: times, equality, and a bar that fills."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest

from .conftest import Server
from .driving import Browser

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]  # a browser may be slow to start

WITHIN = 60.0  # seconds; a few are usual
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


# Presses the button of the memory card, waits until the state is critical, then for events on all wrapped tickers, then presses
# again to end it early, and waits for the state to be normal and for the tickers to go on.
PRESSURE = """
const text = id => document.getElementById(id).textContent;
const until = async holds => { while (!holds()) await new Promise(resolve => setTimeout(resolve, 20)); };
await until(() => document.querySelector("#curl-lines li") && text("memory-level").startsWith("normal"));
await until(() => text("wrapped-open") === "2");  // those of the page before have gone
const tickers = Array.from(document.querySelectorAll("#flask-ticker .panel, #django-ticker .panel.wrapped"));
const events = () => tickers.map(panel => parseInt(panel.querySelector(".value").textContent) || 0);
const tickOn = async () => {
    const before = events();
    await until(() => events().every((number, index) => number > before[index] + 1));
};
const shown = () => ({
    level: text("memory-level"), button: button.textContent, left: text("pressure-left"), note: text("pressure-note"),
    waits: parseInt(text("wrapped-pauses")), open: text("wrapped-open"), refused: text("wrapped-refused"),
    states: tickers.map(panel => panel.querySelector(".state").textContent),
    meter: document.getElementById("memory-meter").getAttribute("aria-valuetext"),
    graph: document.getElementById("memory-graph").getAttribute("aria-label"),
    testsAreDisabled: Array.from(document.querySelectorAll("[data-run]"), test => test.disabled),
});
const button = document.getElementById("pressure-button");
await tickOn();
const steps = [shown()];
button.click();
await until(() => text("memory-level").startsWith("critical") && button.textContent.startsWith("End"));
await tickOn();
steps.push(shown());
button.click();
await until(() => text("memory-level").startsWith("normal") && button.textContent.startsWith("Put"));
await tickOn();
return [...steps, shown()];
"""


def test_under_pressure_the_wrapped_tickers_go_on(browser: Browser, demo: Server) -> None:
    browser.open(demo.url)
    before, during, after = cast("list[dict[str, Any]]", browser.run(PRESSURE, timeout=WITHIN))
    assert [step["level"] for step in (before, during, after)] == [
        "normal: no stream waits",
        "critical: one large event is made at a time",
        "normal: no stream waits",
    ]
    assert [step["button"] for step in (before, during, after)] == [
        "Put the process under pressure",
        "End the pressure",
        "Put the process under pressure",
    ]
    assert before["left"] == after["left"] == "For 15 seconds at most."
    assert re.fullmatch("[0-9]+ s left", during["left"])
    assert [during["note"], after["note"]] == ["The process is under pressure.", "It is over: all was given back at once."]
    assert before["waits"] == during["waits"] == after["waits"], "small events do not wait"
    assert re.fullmatch("5[0-9]{2}[.][0-9] MB of 536.9 MB, 9[0-9] %", during["meter"])
    marks = "Lines: critical 494 MB (92 %), limit 537 MB."
    assert all(step["graph"].endswith(marks) for step in (before, during, after))
    assert all(during["testsAreDisabled"])
    assert not any(before["testsAreDisabled"] + after["testsAreDisabled"])
    for step in (before, during, after):
        assert step["states"] == ["OPEN"] * 3
        assert (step["open"], step["refused"]) == ("2", "0")


# Puts the process under pressure, stops the reading while it is, and begins to read again.
STOP_READING = """
const text = id => document.getElementById(id).textContent;
const until = async holds => { while (!holds()) await new Promise(resolve => setTimeout(resolve, 20)); };
const test = document.querySelector("[data-run]");
const shown = () => [text("memory-level"), text("pressure-button"), text("pressure-note"), test.disabled];
await until(() => document.querySelector("#curl-lines li") && text("memory-level").startsWith("normal"));
document.getElementById("pressure-button").click();
await until(() => text("memory-level").startsWith("critical") && text("pressure-button").startsWith("End"));
document.getElementById("memory-button").click();
const stopped = shown();
document.getElementById("memory-button").click();
await until(() => text("memory-level") !== stopped[0]);
await until(() => text("memory-level").startsWith("normal") && text("pressure-button").startsWith("Put"));
return [stopped, text("memory-note")];
"""


def test_when_reading_stops_the_figures_are_those_of_the_last_reading(browser: Browser, demo: Server) -> None:
    browser.open(demo.url)
    stopped, note = cast("list[Any]", browser.run(STOP_READING, timeout=WITHIN))
    assert stopped == ["last reading", "Put the process under pressure", "", False]
    assert note == ""
