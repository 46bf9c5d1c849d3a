// The page: tickers, tests, headers and terminal lines. The large event and the memory have modules of their own.

import { runLarge, runPlain } from "./large-event.js";
import { beginBand, isUnderPressure, makeMemoryCard, settleMemory } from "./memory.js";
import {
  SIDES, STATES, Stopped, UNNAMED_EVENT, byId, clearPanel, closeStream, element, followState, makePanels, now, openStream,
  readStream, showActivity, showBars, showOpenStreams, showResult, showState, troubleOf, trySide, whole,
} from "./shared.js";

const BURST_EVENTS = 100000;
const ROUNDS = 3; // a single run says little: the first one warms up, and the machine has other things to do
const LANE_SECONDS = 30;

const seconds = value => `${value.toFixed(value < 10 ? 2 : 1)} s`;

/* ---- Tickers: both sides at once, until stopped; paused while a test runs or the tab is hidden ---- */

const pauses = new Set(); // the reasons for which nothing may tick now, in words
const TEST_RUNS = "a test is running";
const TAB_HIDDEN = "this tab is hidden";

function makeTicker(card, prefix) {
  const panels = makePanels(card, prefix, "ticker", ["bar"]);
  const button = byId(card).querySelector("[data-ticker]");
  const ticker = { button, wanted: true, sides: panels.map(panel => ({ panel, source: null })) };
  button.addEventListener("click", () => {
    ticker.wanted = !ticker.wanted;
    settleTicker(ticker);
  });
  return ticker;
}

/** Opens or closes both streams, whichever is due. */
function settleTicker(ticker) {
  const due = ticker.wanted && pauses.size === 0;
  for (const side of ticker.sides) {
    if (due && !side.source) startTicking(side);
    if (!due) stopTicking(side, ticker.wanted ? `Paused: ${[...pauses].join(", ")}.` : "Stopped.");
  }
  ticker.button.textContent = ticker.wanted ? "Stop" : "Start";
  ticker.button.classList.toggle("stops", ticker.wanted);
}

function startTicking(side) {
  Object.assign(side, { started: now(), opened: null, arrivals: [], events: 0, slowest: 0, trouble: "" });
  side.source = openStream(side.panel.path);
  side.source.addEventListener("open", () => noteOpen(side));
  side.source.addEventListener("error", () => noteTrouble(side));
  side.source.addEventListener(UNNAMED_EVENT, event => noteTick(side, JSON.parse(event.data)));
  showTicking(side);
}

function stopTicking(side, reason) {
  if (side.source) closeStream(side.source);
  side.source = null;
  showState(side.panel, "CLOSED");
  side.panel.note.textContent = reason;
}

function noteOpen(side) {
  side.opened ??= now() - side.started;
  side.trouble = "";
  showTicking(side);
}

function noteTick(side, tick) {
  side.events += 1;
  side.slowest = Math.max(side.slowest, Date.now() - tick.sent);
  side.arrivals.push(now());
  showTicking(side);
}

function noteTrouble(side) {
  side.trouble = troubleOf(side.source);
  showTicking(side);
  if (side.source.readyState !== EventSource.CLOSED) return;
  closeStream(side.source);
  showState(side.panel, "FAILED", "CLOSED, failed");
}

function showTicking(side) {
  const { panel, source } = side;
  showState(panel, STATES[source.readyState]);
  panel.value.textContent = side.events === 1 ? "1 event" : `${side.events} events`;
  panel.note.textContent = side.trouble || ticksInWords(side);
  showLane(side);
}

function ticksInWords(side) {
  if (side.events) return `Slowest: ${whole(Math.max(0, side.slowest))} ms, from the server's clock to this one's.`;
  const waited = Math.floor(now() - side.started);
  if (side.opened !== null) return `Open after ${seconds(side.opened)}. None has arrived for ${waited} s.`;
  return `None has arrived for ${waited} s. ${waited < 4 ? "" : "Another window may hold the browser's connections."}`;
}

/** Draws the arrivals of the last half minute, the newest at the right. */
function showLane(side) {
  side.arrivals = side.arrivals.filter(arrival => now() - arrival < LANE_SECONDS);
  const marks = side.arrivals.map(arrival => {
    const mark = element("i");
    mark.style.right = `${(100 * (now() - arrival)) / LANE_SECONDS}%`;
    return mark;
  });
  side.panel.lane.replaceChildren(...marks);
}

/** The time is drawn for a stream without events too. */
function refreshTickers() {
  for (const side of tickers.flatMap(ticker => ticker.sides)) {
    if (side.source && side.source.readyState !== EventSource.CLOSED) showTicking(side);
  }
}

function settlePauses() {
  tickers.forEach(settleTicker);
  settleMemory(pauses.has(TAB_HIDDEN) ? TAB_HIDDEN : "", running !== null);
}

function pauseWhileHidden() {
  if (document.hidden) pauses.add(TAB_HIDDEN);
  else pauses.delete(TAB_HIDDEN);
  settlePauses();
}

/* ---- Tests: one at a time, each with a button that also stops it ---- */

let running = null; // the test that runs: its name, and what stops it

/** Runs the test of the button that is called `name`; how it ends is shown in the button's card. */
async function runTest(name, test) {
  const stopper = new AbortController();
  running = { name, stopper };
  pauses.add(TEST_RUNS);
  settlePauses();
  showButtons();
  try {
    await test(stopper.signal);
  } catch (error) {
    const stopped = error instanceof Stopped;
    showResult(cardOf(name), stopped ? "Stopped." : `Failed: ${error.message}.`, !stopped);
  } finally {
    endTest();
  }
}

const cardOf = name => document.querySelector(`[data-run="${name}"]`).closest(".card").id;

function endTest() {
  running = null;
  pauses.delete(TEST_RUNS);
  settlePauses();
  showButtons();
  showActivity("No test is running.");
}

function showButtons() {
  for (const button of document.querySelectorAll("[data-run]")) {
    const mine = running?.name === button.dataset.run;
    button.dataset.label ??= button.textContent;
    button.textContent = mine ? "Stop" : button.dataset.label;
    button.classList.toggle("stops", mine);
    button.disabled = !mine && (running !== null || isUnderPressure()); // under pressure its streams would wait, or be refused
  }
}

function onRunButton(name) {
  if (running) running.stopper.abort();
  else runTest(name, TESTS[name]);
}

/**
 * Runs bare, then wrapped, a few rounds, and marks each run on the memory graph.
 * Returns each side's seconds, a round each; null if one of them failed, which ends the side.
 */
async function runRounds(name, panels, work) {
  panels.forEach(panel => clearPanel(panel, "waits for its turn"));
  const times = panels.map(() => []);
  for (let round = 1; round <= ROUNDS; round += 1) {
    for (const [index, panel] of panels.entries()) {
      if (times[index].includes(null)) continue;
      showActivity(`Running: ${name}, round ${round} of ${ROUNDS}, ${panel.side}.`);
      const band = beginBand(panel.side);
      try {
        times[index].push(await trySide(panel, () => work(panel)));
      } finally {
        band.end = now(); // also of a run that was stopped
      }
    }
  }
  return times.map(rounds => (rounds.includes(null) ? null : rounds));
}

function median(numbers) {
  return [...numbers].sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
}

/** Shows a side's median and range; a side that failed keeps its failure. Returns the median, or null. */
function showMedian(panel, numbers, inWords) {
  if (!numbers) return null;
  const range = [Math.min(...numbers), Math.max(...numbers)].map(whole);
  panel.value.textContent = inWords(median(numbers));
  panel.note.textContent = `Median of ${ROUNDS} rounds, ${range[0]} to ${range[1]}. ${panel.note.textContent}`;
  return median(numbers);
}

/* ---- The silent stream ---- */

async function runSilent(signal) {
  showResult("silent", "Running.");
  showActivity("Running: silent stream, both sides.");
  const opened = await Promise.all(silentPanels.map(panel => trySide(panel, () => hearSilence(panel, signal))));
  showResult("silent", ...silenceInWords(opened));
}

async function hearSilence(panel, signal) {
  const started = now();
  let opened = null;
  clearPanel(panel, "CONNECTING");
  const show = () => {
    panel.value.textContent = seconds(opened ?? now() - started);
    panel.note.textContent = opened === null ? "and not open yet" : "until it was open";
  };
  const clock = setInterval(show, 100);
  const listen = (source, finish) => {
    followState(panel, source);
    source.addEventListener("open", () => { opened = now() - started; show(); });
    source.addEventListener(UNNAMED_EVENT, () => finish(opened));
  };
  try {
    await readStream(panel.path, { signal, patience: 60, listen });
  } finally {
    clearInterval(clock);
  }
  panel.note.textContent = `until it was open; the event came after ${seconds(now() - started)}`;
  return opened;
}

function silenceInWords([bare, wrapped]) {
  if (bare === null || wrapped === null) return ["Not both sides got their event.", true];
  return [`Open after ${seconds(bare)} bare, ${seconds(wrapped)} wrapped.`];
}

/* ---- The burst ---- */

async function runBurst(signal) {
  showResult("burst", "Running.");
  const times = await runRounds("burst", burstPanels, panel => countBurst(panel, signal));
  const speeds = burstPanels.map((panel, index) => {
    const rounds = times[index]?.map(took => BURST_EVENTS / took);
    return showMedian(panel, rounds, speed => `${whole(speed)} a second`);
  });
  showBars(burstPanels, speeds);
  showResult("burst", ...burstInWords(speeds));
}

async function countBurst(panel, signal) {
  const started = now();
  let events = 0;
  let inOrder = true;
  const clock = setInterval(() => { panel.value.textContent = `${whole(events)} events so far`; }, 150);
  const listen = (source, finish) => {
    followState(panel, source);
    source.addEventListener(UNNAMED_EVENT, event => {
      events += 1;
      inOrder = inOrder && Number(event.data) === events;
    });
    source.addEventListener("end", () => finish(now() - started));
  };
  let took;
  try {
    took = await readStream(`${panel.path}?n=${BURST_EVENTS}`, { signal, patience: 120, listen });
  } finally {
    clearInterval(clock);
  }
  if (events !== BURST_EVENTS || !inOrder) throw new Error(`${whole(events)} events arrived, ${inOrder ? "in" : "not in"} order`);
  panel.value.textContent = `${whole(events / took)} a second`;
  panel.note.textContent = "All arrived, in order.";
  return took;
}

function burstInWords([bare, wrapped]) {
  if (bare === null || wrapped === null) return ["Not both sides arrived, so there is nothing to compare.", true];
  const ratio = wrapped / bare;
  if (ratio > 0.95 && ratio < 1.05) return ["Wrapped and bare were about equally fast."];
  return [`Wrapped: ${ratio.toFixed(ratio < 10 ? 1 : 0)} times the events per second of bare${ratio < 1 ? ", so it was slower" : ""}.`];
}

/* ---- Response headers ---- */

const HEADER_PAIRS = [
  { caption: "Flask's ticker", prefix: "" },
  { caption: "Django's ticker, with GZipMiddleware", prefix: "/django" },
];

async function runHeaders(signal) {
  const tables = [];
  let differences = 0;
  for (const { caption, prefix } of HEADER_PAIRS) {
    const [bare, wrapped] = [await fetchHeaders(`${prefix}/bare/ticker`, signal), await fetchHeaders(`${prefix}/wrapped/ticker`, signal)];
    const rows = compareHeaders(bare, wrapped);
    differences += rows.filter(row => row.differs).length;
    tables.push(headerTable(caption, rows));
  }
  byId("header-tables").replaceChildren(...tables);
  showResult("headers", `${differences} differences, marked with a word and a tint.`);
}

/** Returns the headers of a stream, and closes it as soon as they have come. */
async function fetchHeaders(path, signal) {
  showActivity(`Running: headers of ${path}.`);
  const leave = new AbortController();
  const late = AbortSignal.timeout(15000);
  try {
    const response = await fetch(path, {
      headers: { Accept: "text/event-stream" },
      cache: "no-store",
      signal: AbortSignal.any([signal, leave.signal, late]),
    });
    if (!response.ok) throw new Error(`${path} answered ${response.status}`);
    return new Map(response.headers);
  } catch (error) {
    if (signal.aborted) throw new Stopped();
    throw late.aborted ? new Error(`${path} has sent no headers for 15 s`) : error;
  } finally {
    leave.abort();
  }
}

function compareHeaders(bare, wrapped) {
  const names = [...new Set([...bare.keys(), ...wrapped.keys()])].sort();
  return names.map(name => {
    const values = [bare.get(name), wrapped.get(name)];
    return { name, values, differs: name !== "date" && values[0] !== values[1] };
  });
}

function differenceInWords({ differs, values: [bare, wrapped] }) {
  if (!differs) return "same";
  if (bare === undefined) return "+ added";
  return wrapped === undefined ? "− gone" : "≠ changed";
}

/** The roles are spelled out because a narrow page shows the rows as blocks, which costs a table its own. */
function headerTable(caption, rows) {
  const columns = ["Header", "bare", "wrapped", "Difference"];
  const head = element("tr", { role: "row" }, ...columns.map(name => element("th", { scope: "col", role: "columnheader" }, name)));
  const body = rows.map(row => element("tr", { role: "row", className: row.differs ? "differs" : "" }, ...headerCells(row)));
  return element("table", { role: "table" },
    element("caption", {}, caption),
    element("thead", { role: "rowgroup" }, head),
    element("tbody", { role: "rowgroup" }, ...body));
}

function headerCells(row) {
  const name = element("th", { scope: "row", role: "rowheader" }, element("code", {}, row.name));
  const values = row.values.map((value, index) => {
    const shown = value === undefined ? element("span", { className: "absent" }, "not sent") : element("code", {}, value);
    return tableCell(SIDES[index], shown);
  });
  return [name, ...values, tableCell("difference", row.name === "date" ? "not compared" : differenceInWords(row))];
}

function tableCell(column, content) {
  const made = element("td", { role: "cell" }, element("span", {}, content));
  made.dataset.column = column;
  return made;
}

/* ---- Terminal lines ---- */

function showCurlLines(hasDjango) {
  const curl = "curl -N -H 'Accept: text/event-stream' -H 'Cache-Control: no-cache'";  // as an EventSource asks
  const flask = ["/bare/ticker", "/wrapped/ticker", "/wrapped/silent"].map(path => `${curl} ${location.origin}${path}`);
  const django = SIDES.map(side => `${curl} --compressed ${location.origin}/django/${side}/ticker`);
  byId("curl-lines").replaceChildren(...[...flask, ...(hasDjango ? django : [])].map(curlLine));
}

function curlLine(line) {
  const code = element("code", {}, line);
  const button = element("button", { type: "button", className: "small", ariaLabel: `Copy: ${line}` }, "Copy");
  button.addEventListener("click", () => copyLine(line, code));
  return element("li", {}, code, button);
}

/** The clipboard is there on localhost and over HTTPS alone; elsewhere the line is selected, to be copied by hand. */
async function copyLine(line, code) {
  try {
    await navigator.clipboard.writeText(line);
    byId("copied").textContent = "Copied.";
  } catch {
    getSelection().selectAllChildren(code);
    byId("copied").textContent = "This browser does not let the page copy: the line is selected, copy it by hand.";
  }
}

/* ---- What the server runs on ---- */

async function loadEnvironment() {
  try {
    const response = await fetch("/environment");
    return response.ok ? await response.json() : {};
  } catch {
    return {};
  }
}

function showEnvironment({ ssemiddleware, server, python, flask, django }) {
  const parts = [ssemiddleware && `ssemiddleware ${ssemiddleware}`, server, python, flask && `Flask ${flask}`, django && `Django ${django}`];
  const known = parts.filter(Boolean).join(" · ");
  if (known) byId("environment").textContent = `${known}. One worker process with 64 threads.`;
}

/** Takes Django's card out of service where Django is not installed on the server. */
function missDjango() {
  const ticker = tickers.pop();
  ticker.button.disabled = true;
  for (const side of ticker.sides) stopTicking(side, "Django is not installed on this server.");
  HEADER_PAIRS.pop();
}

/* ---- Start ---- */

const tickers = [makeTicker("flask-ticker", ""), makeTicker("django-ticker", "/django")];
const silentPanels = makePanels("silent", "", "silent", ["lane", "bar"]);
const burstPanels = makePanels("burst", "", "burst", ["lane"]);
const TESTS = { // by the names of their buttons
  "silent": runSilent,
  "burst": runBurst,
  "large": signal => runLarge(signal, beginBand),
  "large-plain": signal => runPlain(signal, beginBand),
  "headers": runHeaders,
};

async function start() {
  // Six short runs would be read aloud state by state; their card has a result that says it once.
  for (const panel of burstPanels) panel.state.ariaLive = "off";
  showOpenStreams();
  for (const button of document.querySelectorAll("[data-run]")) {
    button.addEventListener("click", () => onRunButton(button.dataset.run));
  }
  makeMemoryCard(settlePauses, showButtons);
  const environment = await loadEnvironment();
  showEnvironment(environment);
  showCurlLines(environment.django !== null);
  if (environment.django === null) missDjango();
  document.addEventListener("visibilitychange", pauseWhileHidden);
  pauseWhileHidden();
  setInterval(refreshTickers, 500);
}

start();
