// The card of the process's memory: its readings as a graph and a gauge, and the button that puts it under pressure.

import { STATES, UNNAMED_EVENT, byId, closeStream, megabytes, now, openStream, showState, troubleOf, whole } from "./shared.js";

const GRAPH_SECONDS = 120;
const MARKS = ["critical", "limit"];
const STATES_IN_WORDS = {
  normal: "normal: no stream waits",
  critical: "critical: one large event is made at a time",
  last: "last reading",
};
const LASTS = "For 15 seconds at most.";

const button = byId("memory-button");
const pressureButton = byId("pressure-button");

let isWanted = true;
let source = null;
let isCurrent = false; // whether the latest reading is of now: it is not once the stream is stopped or broken
let readings = []; // of the last two minutes
let bands = []; // when a test ran, and on which side
let asked = false; // a request about pressure is not answered yet
let testRuns = false;
let pressureChanged = () => {};

/** Makes the buttons work; `settle` opens or closes the stream of readings, `changed` is called when pressure begins or ends. */
export function makeMemoryCard(settle, changed) {
  pressureChanged = changed;
  button.addEventListener("click", () => {
    isWanted = !isWanted;
    settle();
  });
  pressureButton.addEventListener("click", async () => {
    if (asked) return; // it is not disabled for so short a time, since that would take the focus away
    isWanted = true; // its effect should be seen
    settle();
    await askForPressure(isUnderPressure() ? "DELETE" : "POST");
  });
}

/** Opens or closes the stream, whichever is due: none is while there is a reason, in words, for which nothing may run. */
export function settleMemory(reason, isTestRunning) {
  testRuns = isTestRunning;
  const isDue = isWanted && !reason;
  if (isDue && !source) startReading();
  if (!isDue) stopReading(isWanted ? `Paused: ${reason}.` : "Stopped.");
  button.textContent = isWanted ? "Stop reading" : "Start reading";
  button.classList.toggle("stops", isWanted);
  showPressure();
}

/** Marks which side's test runs from now on. The caller sets the end of the band. */
export function beginBand(side) {
  const band = { side, start: now(), end: null };
  bands.push(band);
  return band;
}

/** Whether the process is under pressure, as far as is known: without readings, nothing is. */
export const isUnderPressure = () => isCurrent && readings.at(-1).pressure > 0;

/* ---- The stream of readings ---- */

function startReading() {
  source = openStream("/memory/readings");
  showSource();
  source.addEventListener("open", () => showSource());
  source.addEventListener("error", () => {
    showSource(troubleOf(source));
    outdateReading();
  });
  source.addEventListener(UNNAMED_EVENT, event => noteReading(JSON.parse(event.data)));
}

function stopReading(reason) {
  if (source) closeStream(source);
  source = null;
  outdateReading();
  showState({ state: byId("memory-state") }, "CLOSED");
  byId("memory-note").textContent = reason;
}

/** Says that the figures are those of the last reading, and no longer shows the pressure. */
function outdateReading() {
  if (!isCurrent) return;
  const wasUnderPressure = isUnderPressure();
  isCurrent = false;
  showReading(readings.at(-1));
  showPressure();
  byId("pressure-note").textContent = "";
  if (wasUnderPressure) pressureChanged();
}

function showSource(trouble = "") {
  const state = STATES[source.readyState];
  showState({ state: byId("memory-state") }, state === "CLOSED" ? "FAILED" : state, state);
  byId("memory-note").textContent = trouble;
}

function noteReading(reading) {
  const wasUnderPressure = isUnderPressure();
  isCurrent = true;
  readings.push({ ...reading, at: now() });
  readings = readings.filter(({ at }) => now() - at <= GRAPH_SECONDS);
  bands = bands.filter(band => now() - (band.end ?? now()) <= GRAPH_SECONDS);
  showReading(reading);
  showPressure();
  if (wasUnderPressure !== isUnderPressure()) notePressure();
}

/* ---- Pressure ---- */

async function askForPressure(method) {
  asked = true;
  try {
    const response = await fetch("/memory/pressure", { method, signal: AbortSignal.timeout(15000) });
    if (!response.ok) byId("pressure-note").textContent = `Refused: ${(await response.text()).trim()}`; // else a reading shows it
  } catch {
    byId("pressure-note").textContent = "The server did not answer.";
  }
  asked = false;
}

function notePressure() {
  byId("pressure-note").textContent = isUnderPressure() ? "The process is under pressure." : "It is over: all was given back at once.";
  pressureChanged();
}

/** The seconds stand outside of the button, whose name would be read aloud with each. */
function showPressure() {
  pressureButton.textContent = isUnderPressure() ? "End the pressure" : "Put the process under pressure";
  pressureButton.classList.toggle("stops", isUnderPressure());
  pressureButton.disabled = testRuns;
  byId("pressure-left").textContent = isUnderPressure() ? `${Math.ceil(readings.at(-1).pressure)} s left` : LASTS;
}

/* ---- What is seen ---- */

const percent = (part, reading) => `${Math.round((100 * part) / reading.limit)} %`;

function showReading(reading) {
  const { used, limit } = reading;
  const state = isCurrent ? reading.state : "last";
  const peak = Math.max(...readings.map(each => each.used));
  byId("memory-now").textContent = megabytes(used);
  byId("memory-share").textContent = `of ${megabytes(limit)}: ${percent(used, reading)}`;
  byId("memory-peak").textContent = megabytes(peak);
  showPressureState(state);
  byId("wrapped-open").textContent = whole(reading.open);
  byId("wrapped-pauses").textContent = whole(reading.pauses);
  byId("wrapped-paused").textContent = `${reading.paused_seconds.toFixed(1)} s`;
  byId("wrapped-refused").textContent = whole(reading.refused);
  byId("memory-marks").textContent = marksInWords(reading);
  showMeter(reading, state);
  byId("memory-graph").setAttribute(
    "aria-label",
    `Resident memory of the last two minutes: ${isCurrent ? "now" : "last"} ${megabytes(used)}, highest ${megabytes(peak)}. Lines: ${marksInWords(reading)}`,
  );
  drawGraph(reading, Math.max(peak, limit) / 1e6);
}

function showPressureState(state) {
  const shown = byId("memory-level");
  if (shown.dataset.level === state) return; // it is read aloud when it is written
  shown.dataset.level = state;
  shown.textContent = STATES_IN_WORDS[state];
}

function marksInWords(reading) {
  const shares = MARKS.map(name => (name === "limit" ? "" : ` (${percent(reading[name], reading)})`));
  return `${MARKS.map((name, index) => `${name} ${whole(reading[name] / 1e6)} MB${shares[index]}`).join(", ")}.`;
}

function showMeter(reading, state) {
  const meter = byId("memory-meter");
  meter.ariaValueNow = Math.min(100, Math.round((100 * reading.used) / reading.limit));
  meter.ariaValueText = `${megabytes(reading.used)} of ${megabytes(reading.limit)}, ${percent(reading.used, reading)}`;
  meter.dataset.level = state;
  meter.querySelector("span").style.width = `${Math.min(100, (100 * reading.used) / reading.limit)}%`;
  for (const tick of meter.querySelectorAll("i")) tick.style.left = `${(100 * reading[tick.className]) / reading.limit}%`;
}

/* ---- The graph ---- */

function svg(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Draws what fits below `highest` megabytes, and a little above it. */
function drawGraph(reading, highest) {
  const graph = byId("memory-graph");
  const area = { left: 36, right: graph.clientWidth - 58, top: 8, bottom: graph.clientHeight - 22 };
  const most = highest * 1.02;
  const scale = {
    x: at => area.right - ((now() - at) / GRAPH_SECONDS) * (area.right - area.left),
    y: value => area.bottom - (value / most) * (area.bottom - area.top),
  };
  const drawing = svg("svg", { viewBox: `0 0 ${graph.clientWidth} ${graph.clientHeight}`, "aria-hidden": "true" });
  const axes = [...valueAxis(area, scale, most), ...timeAxis(area)];
  drawing.append(stripes(), ...bandsOf(area, scale), ...axes, ...marks(area, scale, reading), curve(scale));
  graph.replaceChildren(drawing);
}

function stripes() {
  const line = svg("path", { d: "M0 0V8", class: "stripe" });
  return svg("defs", {}, svg("pattern", { id: "stripes", width: 8, height: 8, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" }, line));
}

function bandsOf(area, scale) {
  return bands.map(({ side, start, end }) => {
    const left = Math.max(area.left, scale.x(start));
    const width = Math.max(2, scale.x(end ?? now()) - left);
    return svg("rect", { class: `band ${side}`, x: left, width, y: area.top, height: area.bottom - area.top });
  });
}

/** Draws lines at round distances, six at most. */
function valueAxis(area, scale, most) {
  const step = [5, 10, 20, 25, 50, 100, 200, 250, 500, 1000, 2000].find(each => each * 6 > most) ?? Math.ceil(most / 5);
  const values = Array.from({ length: Math.floor(most / step) + 1 }, (_, index) => index * step);
  return values.flatMap(value => {
    const y = scale.y(value);
    const label = svg("text", { x: area.left - 6, y: y + 4, "text-anchor": "end" }, `${value}`);
    return [svg("line", { class: "grid", x1: area.left, x2: area.right, y1: y, y2: y }), label];
  });
}

function timeAxis(area) {
  const [ago, end] = isCurrent ? ["ago", "now"] : ["before", "last reading"];
  const labels = [[area.left, "start", `2 min ${ago}`], [(area.left + area.right) / 2, "middle", `1 min ${ago}`], [area.right, "end", end]];
  return labels.map(([x, anchor, words]) => svg("text", { x, y: area.bottom + 17, "text-anchor": anchor }, words));
}

/** Draws the governor's marks and the limit, each with its name at the right, where no curve is. */
function marks(area, scale, reading) {
  return MARKS.flatMap(name => {
    const y = scale.y(reading[name] / 1e6);
    const label = svg("text", { class: `mark ${name}`, x: area.right + 6, y: y + 4 }, name);
    return [svg("line", { class: `mark ${name}`, x1: area.left, x2: area.right, y1: y, y2: y }), label];
  });
}

/** Draws the readings, with a gap where none were taken. */
function curve(scale) {
  let previous = -Infinity;
  const steps = readings.map(({ at, used }) => {
    const letter = at - previous > 5 ? "M" : "L";
    previous = at;
    return `${letter}${scale.x(at).toFixed(1)} ${scale.y(used / 1e6).toFixed(1)}`;
  });
  return svg("path", { class: "reading", d: steps.join("") });
}
