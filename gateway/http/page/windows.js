// The windows: one card each, with the course of its last results.

import { Chart } from "./charts.js";
import { byId, element, setText, show } from "./dom.js";
import { count, duration, measure, plural, words } from "./format.js";
import { measuresOf, valueOf } from "./measures.js";

const LINES = 6;
const POINTS = 240;
const cards = new Map();
const series = new Map(); // window → key → Map(start_ms → result)

/** Take in results, older ones first; a correction takes the place of what it corrects. */
export function addResults(results) {
  for (const result of results) {
    if (!series.has(result.window)) series.set(result.window, new Map());
    const keys = series.get(result.window);
    const points = keys.get(result.key) ?? new Map();
    keys.delete(result.key); // the one heard last stands last
    keys.set(result.key, points);
    putInOrder(points, result);
    if (points.size > POINTS) points.delete(points.keys().next().value);
  }
}

/** A new window stands before those that begin and end behind it, so the last point is the current one. */
function putInOrder(points, result) {
  const isNew = !points.has(result.end_ms ?? result.start_ms);
  points.set(result.end_ms ?? result.start_ms, result);
  if (!isNew) return;
  const newer = [];
  for (const [at, other] of [...points].slice(0, -1).reverse()) {
    if (!(result.start_ms < other.start_ms && result.end_ms < other.end_ms)) break;
    newer.unshift([at, other]);
  }
  for (const [at, other] of newer) {
    points.delete(at);
    points.set(at, other);
  }
}

export function forgetResults() {
  series.clear();
}

export function showWindows(windows, listens) {
  setText(byId("windows-count"), windows.length ? `${count(windows.length)} configured` : "");
  const body = byId("windows-body");
  if (!windows.length) {
    show(body, "none", () => element("div", { class: "card" }, element("p", {}, "No windows are configured."),
      element("p", { class: "quiet" }, "Add one below windows: in the configuration, and it appears here once the gateway has reloaded it (kill -HUP).")));
    return;
  }
  if (!cards.size) body.replaceChildren();
  for (const window of windows) {
    if (!cards.has(window.name)) cards.set(window.name, new Card(window, body));
    cards.get(window.name).show(window, listens);
  }
}

class Card {
  constructor(window, body) {
    this.choice = element("select", { "aria-label": `Measure of ${window.name}`, hidden: true });
    this.choice.addEventListener("change", () => this.draw());
    this.facts = element("div", { class: "facts quiet" });
    this.chartPlace = element("div", { class: "chart" });
    this.empty = element("p", { class: "empty quiet" });
    this.chartPlace.append(this.empty);
    this.keys = element("div", { class: "keys" });
    this.name = window.name;
    this.lines = [];
    body.append(element("article", { class: "card", "aria-label": `Window ${window.name}` },
      element("div", { class: "head" }, element("h3", {}, window.name), this.choice),
      this.facts, this.chartPlace, this.keys));
  }

  show(window, listens) {
    const lag = window.lag_ms === null ? "no watermark yet" : `watermark ${duration(window.lag_ms / 1000)} behind`;
    const parts = [describe(window), lag, plural(window.keys, "key"), `${count(window.open_windows)} open`, plural(window.emitted, "result")];
    for (const name of ["corrections", "late_dropped", "plugin_errors", "keys_rejected"]) {
      if (window[name]) parts.push(`${count(window[name])} ${words(name)}`);
    }
    show(this.facts, parts, () => parts.map((part) => element("span", {}, part)));
    setText(this.empty, whyEmpty(window, listens));
    this.draw();
  }

  /** The keys that have a line: once chosen they keep it, so that lines do not change places. */
  choose(keys) {
    const others = [...keys.keys()].filter((key) => !this.lines.includes(key)).sort();
    this.lines = [...this.lines.filter((key) => keys.has(key)), ...others].slice(0, LINES);
    return [...this.lines].sort();
  }

  draw() {
    const keys = series.get(this.name);
    this.empty.hidden = Boolean(keys);
    this.chartPlace.classList.toggle("hollow", !keys);
    if (!keys) return;
    const newest = [...keys.values()].at(-1);
    const measures = measuresOf([...newest.values()].at(-1).result);
    const chosen = this.choice.value || (measures.includes("mean") ? "mean" : measures[0]);
    show(this.choice, measures, () => measures.map((name) => element("option", { value: name }, words(name))));
    this.choice.value = chosen;
    this.choice.hidden = measures.length < 2;
    const shown = this.choose(keys);
    const times = [...new Set(shown.flatMap((key) => [...keys.get(key).keys()]))].sort((a, b) => a - b).slice(-POINTS);
    const values = shown.map((key) => times.map((at) => valueOf(keys.get(key).get(at)?.result, chosen)));
    const lines = shown.map((key, at) => ({ label: key || "all", colour: `--s${at + 1}`, points: times.length < 40 }));
    const data = [times.map((ms) => ms / 1000), ...values];
    const about = `Line chart of ${words(chosen ?? "the result")} of ${this.name}, one line for each key; the last values stand below.`;
    if (this.chart) this.chart.set(data, lines);
    else {
      this.chart = new Chart(this.chartPlace, lines, about, false);
      this.chart.set(data, lines);
    }
    const last = shown.map((key) => valueOf([...keys.get(key).values()].at(-1).result, chosen));
    const hidden = keys.size - shown.length;
    show(this.keys, [shown, last, hidden], () => [
      ...shown.map((key, at) => element("span", {}, element("i", { class: `dot c${at + 1}`, "aria-hidden": "true" }), key || "all", element("b", {}, measure(last[at])))),
      ...(hidden ? [element("span", { class: "quiet" }, `and ${count(hidden)} more ${hidden === 1 ? "key" : "keys"}`)] : []),
    ]);
  }
}

function whyEmpty(window, listens) {
  if (window.emitted) return "No results lately but alerts, which stand above.";
  if (window.events) return "No result yet: the first comes when the watermark has passed a window's end.";
  return `No reading has come yet. This window waits for the field ${window.fields.join(", ")}${listens ? ` on ${listens}` : ""}.`;
}

function describe(window) {
  const span = {
    tumbling: () => `every ${duration(window.size_ms / 1000)}`,
    hopping: () => `${duration(window.size_ms / 1000)} every ${duration(window.slide_ms / 1000)}`,
    session: () => `sessions with a gap of ${duration(window.gap_ms / 1000)}`,
  }[window.type];
  return `${window.plugin} of ${window.fields.join(", ")}, ${span ? span() : window.type}`;
}
