// The card of one large event: the same JSON on one line, folded and in fragments, one after another.

import { FragmentedEventSource } from "./client.js";
import {
  Stopped, UNNAMED_EVENT, byId, clearPanel, element, followState, makePanel, now, readStream, showActivity, showBars, showResult,
  showState, trySide, whole,
} from "./shared.js";

const MOST_PLAIN_IN_WEBKIT = 5; // MB, some seconds; 50 MB would take minutes, and the tab does nothing else meanwhile
const WAITS = "waits for its turn";
const EQUAL = "Equal to what was sent.";

const plain = makeWay("plain", "/wrapped/large", ["SSEMiddleware(app)", "new EventSource(url)"]);
const folded = makeWay("folded", "/folded/large", ["SSEMiddleware(app, oversized=Fold())", "new EventSource(url)"]);
const fragments = makeWay("fragments", "/fragments/large", ["SSEMiddleware(app, oversized=Fragment())", "new FragmentedEventSource(url)"]);
const ways = [plain, folded, fragments];

const slider = byId("large-size");
const progress = byId("large-progress").content.firstElementChild.cloneNode(true);
const plainButton = element("button", { type: "button", className: "small", hidden: true }, "Try plain anyway");
plainButton.dataset.run = "large-plain";
let size = 0; // MB, of the run that is shown

slider.addEventListener("input", showSize);
showSize(); // a browser may have kept another size than the document's
fragments.value.after(progress);
plain.note.after(plainButton);

/** Makes the panel of one way, and its row in the chart, whose bar and time it shows. */
function makeWay(name, path, lines) {
  const panel = makePanel("large", name, path);
  panel.lane.remove();
  panel.bar.remove();
  panel.state.ariaLive = "off"; // the card has a result that says it once
  panel.state.parentElement.before(element("p", { className: "how" }, ...lines.map(line => element("code", {}, line))));
  const bar = element("div", { className: "bar" }, element("span"));
  const time = element("span", { className: "time" });
  byId("large-chart").append(element("div", { className: `row ${name}` }, element("span", { className: `name ${name}` }, name), bar, time));
  return { ...panel, bar, time, took: null };
}

function showSize() {
  byId("large-size-in-words").textContent = slider.ariaValueText = `${slider.value} MB`;
}

/** Whether this browser is WebKit: Safari, every browser on an iPhone, WebKitGTK. The HTML standard has a vendor for each engine. */
const isWebKit = () => navigator.vendor.startsWith("Apple");

/** Reads the event in all three ways, plain last, since a browser may take long. `beginBand` is the memory graph's. */
export async function runLarge(signal, beginBand) {
  size = Number(slider.value);
  plainButton.hidden = true;
  ways.forEach(forget);
  showProgress({ loaded: 0, total: 1 });
  const isTooLong = isWebKit() && size > MOST_PLAIN_IN_WEBKIT;
  if (isTooLong) leavePlainOut();
  await readInTurn(isTooLong ? [folded, fragments] : [folded, fragments, plain], signal, beginBand);
}

/** Reads the event that was left out, of the size that the other two have shown. */
export async function runPlain(signal, beginBand) {
  forget(plain);
  await readInTurn([plain], signal, beginBand);
}

function forget(way) {
  way.took = null;
  way.time.textContent = "";
  clearPanel(way, WAITS);
}

function leavePlainOut() {
  showState(plain, "CLOSED", "left out");
  plain.time.textContent = "left out";
  plain.note.textContent = `Left out: this browser is WebKit, whose time for a line grows with the square of its length, so ${size} MB on one line may stop this tab for a long time.`;
  plainButton.hidden = false;
}

async function readInTurn(turns, signal, beginBand) {
  showResult("large", "Running.");
  try {
    const sent = await fetchSent(signal);
    for (const way of turns) {
      showActivity(`Running: large event, ${way.side}.`);
      await new Promise(resolve => setTimeout(resolve, 50)); // this is drawn before the browser is busy
      await readOneWay(way, sent, signal, beginBand("wrapped"));
    }
    showResult("large", ...timesInWords());
  } finally {
    for (const way of turns) if (way.state.textContent === WAITS) showState(way, "CLOSED", "not run");
  }
}

/** Returns the JSON as an ordinary response has it. By then the server has made the event, so its making is in no time. */
async function fetchSent(signal) {
  showActivity(`Running: large event, ${size} MB of JSON to compare with.`);
  try {
    const response = await fetch(`/bare/large.json?mb=${size}`, { cache: "no-store", signal });
    if (!response.ok) throw new Error((await response.text()).trim());
    return await response.text();
  } catch (error) {
    throw signal.aborted ? new Stopped() : error;
  }
}

async function readOneWay(way, sent, signal, band) {
  try {
    way.took = await trySide(way, () => readAndCompare(way, sent, signal));
  } finally {
    band.end = now();
  }
  way.time.textContent = way.took === null ? "failed" : milliseconds(way.took);
  showBars(ways, ways.map(({ took }) => took));
}

/** Returns the seconds from `new EventSource` to the event's handler; what is done with the event comes after that. */
async function readAndCompare(way, sent, signal) {
  const Source = way === fragments ? FragmentedEventSource : EventSource;
  let pieces = 0;
  const started = now();
  const listen = (source, finish) => {
    followState(way, source);
    source.onprogress = event => { pieces += 1; showProgress(event); }; // an EventSource has no such event, and ignores this
    source.addEventListener(UNNAMED_EVENT, event => finish({ took: now() - started, data: event.data }));
  };
  const { took, data } = await readStream(`${way.path}?mb=${size}`, { signal, patience: 120, listen, Source });
  if (JSON.stringify(JSON.parse(data)) !== sent) throw new Error("what came is not what was sent");
  way.value.textContent = milliseconds(took);
  way.note.textContent = `${piecesInWords(pieces, data.split("\n").length)} ${EQUAL}`;
  return took;
}

function piecesInWords(pieces, lines) {
  if (pieces) return `Came in ${whole(pieces)} ${pieces === 1 ? "fragment" : "fragments"}.`;
  return `Came on ${whole(lines)} ${lines === 1 ? "line" : "lines"}.`;
}

/** Takes a `ProgressEvent`; its total is 0 as long as that is not known. */
function showProgress({ loaded, total }) {
  const bar = progress.querySelector("progress");
  if (total) bar.value = loaded / total;
  else bar.removeAttribute("value");
  progress.querySelector("span").textContent = total ? `${Math.floor((100 * loaded) / total)} %` : "";
}

const milliseconds = took => `${whole(took * 1000)} ms`;

function timesInWords() {
  const arrived = ways.filter(({ took }) => took !== null);
  const times = `${size} MB: ${arrived.map(({ side, took }) => `${side} ${milliseconds(took)}`).join(", ")}.`;
  if (arrived.length === 3) return [`${times} ${plainInWords()}All three are equal to what was sent.`];
  if (arrived.length === 2 && !plainButton.hidden) return [`${times} Both are equal to what was sent. Plain was left out.`];
  return ["Not all three arrived as they were sent; the panels say what happened.", true];
}

function plainInWords() {
  const times = plain.took / folded.took;
  return times < 2 ? "" : `Plain took ${times.toFixed(times < 10 ? 1 : 0)} times as long as folded. `;
}
