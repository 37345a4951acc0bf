// Keeps the page up to date: history and results once, then a frame a second.

import { showAlerts } from "./alerts.js";
import { Chart } from "./charts.js";
import { byId, setText } from "./dom.js";
import { time } from "./format.js";
import * as panels from "./panels.js";
import { showSections } from "./sections.js";
import "./theme.js";
import { addResults, forgetResults, showWindows } from "./windows.js";

const KEPT_ROWS = 900;
let rows = []; // [time_ms, in_per_s, out_per_s, waiting]
let state = null;
let number = 0;
let source = null;
let flow = null;
let waiting = null;

async function ask(path) {
  const answer = await fetch(path, { headers: { Accept: "application/json" } });
  if (answer.status === 401) location.assign("/login");
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

/** What was before the first frame, and what was missed when frames were. */
async function catchUp() {
  const [history, results, now] = await Promise.all([ask("/api/history"), ask("/api/results"), ask("/api/state")]);
  rows = history;
  forgetResults();
  for (const { points } of results) addResults(points);
  take(now);
}

function take(next) {
  state = next;
  document.documentElement.classList.remove("stale");
  panels.showAbout(state);
  panels.showNotices(state, null);
  panels.showFigures(state);
  panels.showBuffer(state.buffer);
  panels.showDevices(state.devices, state.time_ms);
  showWindows(state.windows, (state.gateway.listens ?? []).join(", "));
  showAlerts(state.alerts);
  panels.showLinks(state.links);
  showSections(state.sections);
  drawFlow();
  setText(byId("updated"), `updated ${time(state.time_ms)}`);
}

function drawFlow() {
  const hasCloud = state.buffer.forecast.state !== "local";
  const times = rows.map((row) => row[0] / 1000);
  const lines = [{ label: "taken in", colour: "--s1", fill: true }];
  const data = [times, rows.map((row) => row[1])];
  if (hasCloud) {
    lines.push({ label: "to the cloud", colour: "--s2" });
    data.push(rows.map((row) => row[2]));
  }
  byId("flow-cloud").hidden = !hasCloud;
  flow ??= new Chart(byId("flow-chart"), lines, "Messages per second taken in and sent to the cloud, the last 15 minutes");
  flow.set(data, lines);
  waiting ??= new Chart(byId("waiting-chart"), [{ label: "waiting", colour: "--warn", fill: true }], "Events that wait for the cloud, the last 15 minutes");
  waiting.set([times, rows.map((row) => row[3])]);
}

function onFrame(event) {
  const frame = JSON.parse(event.data);
  const missed = number && frame.number !== number + 1;
  number = frame.number;
  if (missed) {
    catchUp().catch(lost);
    return;
  }
  rows.push([frame.time_ms, frame.rates.in_now, frame.rates.out_now, frame.buffer.forecast.waiting]);
  if (rows.length > KEPT_ROWS) rows.shift();
  addResults(frame.results);
  take(frame);
}

function lost() {
  document.documentElement.classList.add("stale");
  setText(byId("status"), "no answer");
  byId("status").className = "pill bad";
  panels.showNotices(state, state?.time_ms ?? Date.now());
}

async function open() {
  try {
    await catchUp();
  } catch {
    lost();
    setTimeout(reopen, 2000);
    return;
  }
  number = 0;
  source = new EventSource("/api/live");
  source.addEventListener("state", onFrame);
  source.addEventListener("error", () => {
    lost();
    source.close();
    source = null;
    setTimeout(reopen, 2000);
  });
}

function reopen() {
  if (!source && !document.hidden) open();
}

// A hidden page costs the gateway nothing.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    source?.close();
    source = null;
  } else reopen();
});

open();
