// The course of a window's results, or of a device's field, over a range of time: it zooms by dragging, says the
// values under the mouse, compares keys, and gives its numbers as CSV and its picture as PNG.

import { Chart } from "./charts.js";
import { element, setText, show } from "./dom.js";
import { measure, moment, words } from "./format.js";
import { LOADING } from "./parts.js";
import { joined } from "./series.js";

const MINUTE = 60_000;
export const RANGES = [["15 minutes", 15 * MINUTE], ["1 hour", 60 * MINUTE], ["6 hours", 360 * MINUTE], ["1 day", 1440 * MINUTE], ["7 days", 10080 * MINUTE], ["30 days", 43200 * MINUTE]];
const EVERY_MS = 10_000;
const MOST_BANDS = 3; // more of them hide each other

/** A choice of range; `chosen` is called with ms. */
export function rangeChoice(chosen, first = RANGES[1][1]) {
  const select = element("select", {}, ...RANGES.map(([text, ms]) => element("option", { value: ms, selected: ms === first }, text)));
  select.addEventListener("change", () => chosen(Number(select.value)));
  return select;
}

/** One request at a time for all charts: what is asked first comes first. */
let line = Promise.resolve();
function inLine(task) {
  const done = line.then(task);
  line = done.catch(() => {});
  return done;
}

export class Course {
  /** `source` are the parameters of /api/course: {window, key: [...]} or {device, field}. A key of null is not known yet. */
  constructor({ title, href, source, place, page, spanMs, small = false, csv, zoom = null, limit = null, heading = "h3" }) {
    Object.assign(this, { title, source, page, spanMs, small, makeCsv: csv, zoom, limit, measure: null, seen: false, closed: false });
    this.choice = element("select", { "aria-label": `Measure of ${title}`, hidden: true });
    this.choice.addEventListener("change", () => { this.measure = this.choice.value; this.load(); });
    this.read = element("p", { class: "read", "aria-live": "off" });
    this.keys = element("div", { class: "keys" });
    this.chartPlace = element("div", { class: small ? "chart" : "chart tall" });
    this.note = element("p", { class: "quiet", hidden: true });
    this.csv = element("a", { download: `${title}.csv`, class: "csv" }, "CSV");
    this.png = element("button", { type: "button" }, "PNG");
    this.png.addEventListener("click", () => this.savePicture());
    this.whole = element("button", { type: "button", hidden: zoom === null }, "Whole range");
    this.whole.addEventListener("click", () => this.choose(this.spanMs));
    this.tools = element("p", { class: "tools", hidden: true }, this.csv, this.png, this.whole, element("span", { class: "quiet" }, "Drag to zoom, point to read; by keyboard arrows, + and −."));
    this.node = element("article", { class: "card course", "aria-label": title },
      element("div", { class: "head" }, element(heading, {}, href ? element("a", { href }, title) : title), this.choice),
      (this.head = element("div", { class: "facts quiet" })), this.read, this.chartPlace, this.keys, this.note, this.tools);
    place.append(this.node);
    this.watch = new IntersectionObserver(([entry]) => { this.seen = entry.isIntersecting; if (this.seen) this.load(); }, { rootMargin: "100px" });
    this.watch.observe(this.node);
    this.timer = setInterval(() => { if (!this.zoom && !document.hidden) this.load(); }, EVERY_MS);
  }

  choose(spanMs) {
    this.spanMs = spanMs;
    this.zoom = null;
    this.whole.hidden = true;
    this.load();
  }

  compare(keys) {
    this.source = { ...this.source, key: keys };
    this.load();
  }

  range() {
    const now = Date.now();
    return this.zoom ?? [now - this.spanMs, now];
  }

  query() {
    const [from, to] = this.range();
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(this.source)) [value].flat().forEach((each) => query.append(name, each));
    if (this.measure !== null) query.set("measure", this.measure);
    query.set("from_ms", Math.round(from));
    query.set("to_ms", Math.round(to) + 1);
    return query;
  }

  async load() {
    if (this.source.key === null) return;
    const query = this.query();
    this.csv.href = this.makeCsv ? this.makeCsv(query) : `/api/course?${query}&points=5000&format=csv`;
    if (!this.seen || this.closed || this.loading) {
      this.again = Boolean(this.loading);
      return;
    }
    if (this.source.key?.length === 0) {
      this.tell("Choose a key to see its course.");
      return;
    }
    this.loading = true;
    if (!this.chart || this.chartPlace.hidden) setText(this.read, LOADING);
    try {
      const found = await inLine(() => (this.closed ? null : this.page.ask(`/api/course?${query}&points=${this.small ? 300 : 600}`)));
      if (found && !this.closed) this.draw(found);
    } catch (problem) {
      this.tell(problem.message);
    }
    this.loading = false;
    if (this.again) {
      this.again = false;
      this.load();
    }
  }

  draw(found) {
    this.found = found;
    const { measures, series } = found;
    if (!series.some((each) => each.found)) {
      this.tell(this.zoom ? "Nothing is stored of this time." : "The buffer holds nothing of this time range.");
      return;
    }
    show(this.choice, measures, () => measures.map((name) => element("option", { value: name }, words(name))));
    this.choice.value = found.measure;
    this.choice.hidden = measures.length < 2;
    const hasBands = series.length <= MOST_BANDS && series.some((each) => each.low);
    const shown = series.map((each, at) => ({ ...each, colour: `--s${at + 1}` }));
    const lines = shown.flatMap((each) => [
      { label: each.key, colour: each.colour },
      ...(hasBands ? [{ label: `${each.key} min`, colour: each.colour, thin: true }, { label: `${each.key} max`, colour: each.colour, thin: true }] : []),
    ]);
    this.step = hasBands ? 3 : 1;
    const tables = shown.map((each) => ({ times: each.times, columns: hasBands ? [each.values, each.low ?? each.values, each.high ?? each.values] : [each.values] }));
    if (this.limit !== null) {
      lines.push({ label: "limit", colour: "--bad", dash: true });
      tables.push({ times: this.range(), columns: [[this.limit, this.limit]] });
    }
    const data = joined(tables);
    this.chartPlace.hidden = false;
    this.tools.hidden = this.small;
    const bands = hasBands ? shown.map((each, at) => [at * 3 + 3, at * 3 + 2, each.colour]) : [];
    if (!this.chart || this.chart.mouse.bands.length !== bands.length) {
      this.chart?.destroy();
      this.chart = new Chart(this.chartPlace, lines, `Course of ${words(found.measure || "the result")} of ${this.title}; arrow keys read its values.`, false, {
        bands, zoom: (from, to) => this.zoomTo(from, to), read: (index) => this.say(index), span: () => this.range().map((ms) => ms / 1000),
      });
    }
    this.chart.set(data, lines);
    const cut = found.read_every > 1 ? `There are so many messages that every ${found.read_every}th is drawn.` : "";
    setText(this.note, cut);
    this.note.hidden = !cut;
    this.say(null);
  }

  zoomTo(from, to) {
    this.zoom = [from * 1000, to * 1000];
    this.whole.hidden = false;
    this.load();
  }

  /** The values under the mouse; without it the newest ones. */
  say(index) {
    if (!this.chart || !this.found) return;
    const { data } = this.chart;
    const last = (column) => data[column].findLastIndex((value) => value !== null && value !== undefined);
    const { unit } = this.found;
    const parts = this.found.series.map(({ key }, at) => {
      const column = 1 + at * this.step;
      const shown = index ?? last(column);
      const value = data[column]?.[shown];
      const [low, high] = this.step > 1 ? [data[column + 1]?.[shown], data[column + 2]?.[shown]] : [];
      const band = low !== undefined && low !== null && low !== high ? ` (${measure(low)} to ${measure(high)})` : "";
      return [key || "all", typeof value === "number" ? `${measure(value)}${unit ? ` ${unit}` : ""}${band}` : "–"];
    });
    const shown = index ?? last(1);
    setText(this.read, shown >= 0 && data[0][shown] !== undefined ? `${moment(data[0][shown] * 1000)}${parts.length === 1 ? `: ${parts[0][1]}` : ""}` : "");
    show(this.keys, parts.length > 1 ? parts : [], () => (parts.length > 1 ? parts.map(([key, text], at) => element("span", {}, element("i", { class: `dot c${at + 1}`, "aria-hidden": "true" }), key, element("b", {}, text))) : []));
  }

  tell(text) {
    setText(this.read, text);
    this.chartPlace.hidden = !this.zoom;
    this.tools.hidden = !this.zoom;
    this.chart?.set(this.chart.data.map(() => []));
    this.keys.replaceChildren();
    this.keys.shown = undefined;
  }

  async savePicture() {
    if (!this.chart) return;
    const [from, to] = this.range();
    const blob = await this.chart.picture(`${this.title}, ${words(this.found?.measure ?? "")} ${moment(from)} to ${moment(to)}`);
    const link = element("a", { href: URL.createObjectURL(blob), download: `${this.title}.png` });
    link.click();
    URL.revokeObjectURL(link.href);
  }

  close() {
    this.closed = true;
    clearInterval(this.timer);
    this.watch.disconnect();
    this.chart?.destroy();
  }
}
