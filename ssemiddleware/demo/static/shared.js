// What the cards of the page share: streams, and how their state and outcome are shown.

export const SIDES = ["bare", "wrapped"];
export const UNNAMED_EVENT = "message"; // how WHATWG HTML calls an event that has no event field
export const STATES = ["CONNECTING", "OPEN", "CLOSED"]; // by EventSource.readyState
const MOST_STREAMS = 5; // a browser allows six HTTP/1.1 connections to a host, and one has to stay free

/** What a test ends with when its button is pressed again. */
export class Stopped extends Error {}

export const byId = id => document.getElementById(id);
export const now = () => performance.now() / 1000;
export const whole = value => Math.round(value).toLocaleString("en");
export const megabytes = bytes => `${(bytes / 1e6).toFixed(1)} MB`;

/* ---- Streams: all of this page's open and close here ---- */

const openStreams = new Set();

/** Opens an event stream; refuses the sixth, which would wait for a connection and look like a dead server. */
export function openStream(path, Source = EventSource) {
  if (openStreams.size >= MOST_STREAMS) throw new Error(`this page has ${MOST_STREAMS} streams open already`);
  const source = new Source(path);
  openStreams.add(source);
  showOpenStreams();
  return source;
}

export function closeStream(source) {
  source.close();
  openStreams.delete(source);
  showOpenStreams();
}

export function showOpenStreams() {
  byId("open-streams").textContent = openStreams.size;
  const dots = Array.from({ length: MOST_STREAMS }, (_, index) => element("i", { className: index < openStreams.size ? "open" : "" }));
  byId("stream-gauge").replaceChildren(...dots);
}

/** Says what an EventSource's error event means; the browser itself gives only the state. */
export function failureOf(source, broken = "the connection broke before the end") {
  return source.readyState === EventSource.CLOSED ? "the server refused the stream (its terminal may say why)" : broken;
}

/** The same for a stream that lasts: there a browser connects again by itself, unless the server refused. */
export const troubleOf = source => `Trouble: ${failureOf(source, "no connection; the browser tries again by itself")}.`;

/**
 * Opens a stream, and closes it when it has done its work, breaks, is stopped or takes too long.
 * `listen(source, finish)` adds the listeners; what it passes to `finish` is what the promise resolves with.
 */
export function readStream(path, { signal, patience, listen, Source }) {
  return new Promise((resolve, reject) => {
    if (signal.aborted) throw new Stopped();
    const source = openStream(path, Source);
    const leave = (settle, value) => {
      clearTimeout(deadline);
      signal.removeEventListener("abort", stop);
      closeStream(source);
      settle(value);
    };
    const stop = () => leave(reject, new Stopped());
    const tooLong = () => leave(reject, new Error(`not done after ${patience} s; other tabs may hold the connections`));
    const deadline = setTimeout(tooLong, patience * 1000);
    signal.addEventListener("abort", stop);
    source.addEventListener("error", () => leave(reject, new Error(failureOf(source))));
    listen(source, value => leave(resolve, value));
  });
}

/* ---- What is seen ---- */

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** Makes a card's panel for one side, or one way, and returns its parts. */
export function makePanel(card, side, path) {
  const panel = byId("panel").content.firstElementChild.cloneNode(true);
  const part = selector => panel.querySelector(selector);
  panel.classList.add(side);
  part(".name").textContent = side;
  part(".name").classList.add(side);
  part(".path").append(...path.match(/\/[^/]*/g).flatMap(step => [element("wbr"), step]));
  byId(card).querySelector(".panels").append(panel);
  return { side, path, state: part(".state"), value: part(".value"), note: part(".note"), lane: part(".lane"), bar: part(".bar") };
}

/** Makes both panels of a card, without the parts that it has no use for. */
export function makePanels(card, prefix, name, unused) {
  return SIDES.map(side => {
    const panel = makePanel(card, side, `${prefix}/${side}/${name}`);
    for (const part of unused) panel[part].remove();
    return panel;
  });
}

export function showState(panel, state, words = state) {
  if (panel.state.textContent === words) return; // it is read aloud when it is written, even to what it was
  panel.state.dataset.state = state;
  panel.state.textContent = words;
}

/** Shows how a test's stream ended, in the panel of its side. */
export function showOutcome(panel, error) {
  if (!error) showState(panel, "DONE", "CLOSED, done");
  else if (error instanceof Stopped) showState(panel, "CLOSED", "CLOSED, stopped");
  else {
    showState(panel, "FAILED", "CLOSED, failed");
    panel.value.textContent = "";
    panel.note.textContent = `Failed: ${error.message}.`;
  }
}

export function clearPanel(panel, words) {
  showState(panel, "CLOSED", words);
  panel.value.textContent = panel.note.textContent = "";
  panel.bar.firstElementChild.style.width = "0";
}

/** Draws the panels' bars to one scale; a side without a number gets none. */
export function showBars(panels, numbers) {
  const most = Math.max(...numbers.map(number => number ?? 0));
  panels.forEach((panel, index) => {
    panel.bar.firstElementChild.style.width = numbers[index] ? `max(3px, ${(100 * numbers[index]) / most}%)` : "0";
  });
}

export function showResult(card, text, failed = false) {
  const result = byId(card).querySelector(".result");
  result.textContent = text;
  result.classList.toggle("failed", failed);
}

export const showActivity = text => { byId("activity").textContent = text; };

/** Runs one side of a test; a failure is shown in its panel, and leaves null for a result. */
export async function trySide(panel, work) {
  try {
    const result = await work();
    showOutcome(panel);
    return result;
  } catch (error) {
    showOutcome(panel, error);
    if (error instanceof Stopped) throw error;
    return null;
  }
}

/** Shows the state until the stream is closed. */
export function followState(panel, source) {
  showState(panel, STATES[source.readyState]);
  source.addEventListener("open", () => showState(panel, STATES[source.readyState]));
}
