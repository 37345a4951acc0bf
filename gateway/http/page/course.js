// The course of a window's results for one key, from the buffer: zoom by dragging, values under the mouse.

import { Chart } from "./charts.js";
import { element, setText, show } from "./dom.js";
import { measure, moment, words } from "./format.js";
import { measuresOf, valueOf } from "./measures.js";

const MINUTE = 60_000;
export const RANGES = [["15 minutes", 15 * MINUTE], ["1 hour", 60 * MINUTE], ["6 hours", 360 * MINUTE], ["1 day", 1440 * MINUTE], ["7 days", 10080 * MINUTE], ["30 days", 43200 * MINUTE]];
const EVERY_MS = 10_000;
const MOST_POINTS = 1000;

export class Course {
  constructor(window, key, place, ask) {
    Object.assign(this, { window, key, ask, points: [], zoomed: false, spanMs: 0 });
    this.choice = element("select", { "aria-label": `Measure of ${window.name}`, hidden: true });
    this.choice.addEventListener("change", () => this.draw());
    this.read = element("p", { class: "read quiet", "aria-live": "off" }, " ");
    this.chartPlace = element("div", { class: "chart" });
    this.csv = element("a", { download: `${window.name}-${key}.csv`, class: "csv" }, "CSV");
    this.png = element("button", { type: "button" }, "PNG");
    this.png.addEventListener("click", () => this.savePicture());
    this.whole = element("button", { type: "button", hidden: true }, "Whole range");
    this.whole.addEventListener("click", () => this.unzoom());
    place.append(element("article", { class: "card course", "aria-label": `Course of ${window.name}` },
      element("div", { class: "head" }, element("h3", {}, window.name), this.choice),
      this.read, this.chartPlace,
      element("p", { class: "tools" }, this.csv, this.png, this.whole)));
    this.timer = setInterval(() => { if (!this.zoomed && !document.hidden) this.load(); }, EVERY_MS);
  }

  choose(spanMs) {
    this.spanMs = spanMs;
    this.zoomed = false;
    this.whole.hidden = true;
    this.load();
  }

  async load() {
    const spanMs = this.spanMs;
    const from = Date.now() - spanMs;
    const query = new URLSearchParams({ window: this.window.name, key: this.key, from_ms: from });
    this.csv.href = `/api/aggregates?${query}&format=csv`;
    try {
      const lines = await this.ask(`/api/aggregates?${query}&format=ndjson`, "text");
      if (spanMs !== this.spanMs) return;
      this.points = lines.split("\n").filter(Boolean).map((line) => JSON.parse(line)).sort((a, b) => at(a) - at(b));
      this.draw();
    } catch (problem) {
      setText(this.read, problem.message);
    }
  }

  draw() {
    if (!this.points.length) {
      setText(this.read, "The buffer holds no results of this time range.");
      this.chart?.set([[], [], [], []]);
      return;
    }
    const measures = measuresOf(this.points.at(-1).result);
    const chosen = this.choice.value || (measures.includes("mean") ? "mean" : measures[0]);
    show(this.choice, measures, () => measures.map((name) => element("option", { value: name }, words(name))));
    this.choice.value = chosen;
    this.choice.hidden = measures.length < 2;
    this.band = /(^|\.)mean$/.test(chosen ?? "");
    const side = (name) => (this.band ? chosen.replace(/mean$/, name) : chosen);
    const rows = withGaps(this.points.map((point) => [at(point) / 1000, valueOf(point.result, chosen), valueOf(point.result, side("min")), valueOf(point.result, side("max"))]), this.window.size_ms);
    const few = rows.length < 60;
    const data = [0, 1, 2, 3].map((column) => rows.map((row) => row[column]));
    const lines = [
      { label: words(chosen ?? "result"), colour: "--s1", points: few, gaps: true },
      { label: "min", colour: "--s1", thin: true, gaps: true },
      { label: "max", colour: "--s1", thin: true, gaps: true },
    ];
    if (this.chart) this.chart.set(data, lines);
    else {
      this.chart = new Chart(this.chartPlace, lines, `Course of ${this.window.name} of ${this.key}; the values are in the CSV.`, false, {
        band: true, zoom: () => { this.zoomed = true; this.whole.hidden = false; }, read: (index) => this.say(index),
      });
      this.chart.set(data, lines);
    }
    this.say(null);
  }

  /** The values under the mouse; without it the newest. */
  say(index) {
    const data = this.chart?.data;
    if (!data?.[0].length) return;
    const shown = index ?? data[0].length - 1;
    if (data[1][shown] === null) return;
    const band = this.band && data[2][shown] !== null ? ` (${measure(data[2][shown])} to ${measure(data[3][shown])})` : "";
    setText(this.read, `${moment(data[0][shown] * 1000)}: ${measure(data[1][shown])}${band}`);
  }

  unzoom() {
    this.zoomed = false;
    this.whole.hidden = true;
    this.load();
  }

  savePicture() {
    const canvas = this.chartPlace.querySelector("canvas");
    canvas?.toBlob((blob) => {
      const link = element("a", { href: URL.createObjectURL(blob), download: `${this.window.name}-${this.key}.png` });
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }

  close() {
    clearInterval(this.timer);
    this.chart?.destroy();
  }
}

const at = (point) => point.end_ms ?? point.start_ms ?? 0;

/** Fewer rows where there are many, each with the least and the most of what it stands for; holes stay holes. */
function withGaps(rows, sizeMs) {
  const each = Math.ceil(rows.length / MOST_POINTS);
  const found = [];
  const usual = Math.max((sizeMs ?? 0) / 1000, median(rows)) * each * 1.5;
  for (let from = 0; from < rows.length; from += each) {
    const some = rows.slice(from, from + each);
    const known = some.filter((row) => row[1] !== null);
    const before = found.at(-1);
    if (before && usual && some[0][0] - before[0] > usual) found.push([before[0] + usual / 2, null, null, null]);
    const mean = known.length ? known.reduce((sum, row) => sum + row[1], 0) / known.length : null;
    const side = (column, pick) => (known.length ? known.reduce((best, row) => pick(best, row[column] ?? row[1]), known[0][column] ?? known[0][1]) : null);
    found.push([some.at(-1)[0], mean, side(2, Math.min), side(3, Math.max)]);
  }
  return found;
}

function median(rows) {
  const steps = rows.slice(1).map((row, index) => row[0] - rows[index][0]).sort((a, b) => a - b);
  return steps[steps.length >> 1] ?? 0;
}
