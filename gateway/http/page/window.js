// One window: the course of the keys that are chosen, and all of its keys with their last results.

import { Course, RANGES, rangeChoice } from "./course.js";
import { element, setText, show } from "./dom.js";
import { count, measured, moment, plural } from "./format.js";
import { Poll } from "./live.js";
import { LOADING } from "./parts.js";
import { factsOf, whyEmpty } from "./windows.js";

const EVERY_MS = 3000;
const LISTED = 50;
const MOST_KEYS = 6; // lines that can be told apart

export class WindowPage {
  constructor(name, node, page) {
    Object.assign(this, { name, page, offset: 0, chosen: null });
    this.search = element("input", { type: "search", autocomplete: "off", placeholder: "part of a key" });
    this.search.addEventListener("input", () => { this.offset = 0; this.poll.now(); });
    this.found = element("p", { class: "quiet", role: "status" }, LOADING);
    this.why = element("p", { hidden: true });
    this.table = element("div");
    this.bound = element("p", { class: "quiet", hidden: true });
    this.before = element("button", { type: "button" }, "Before");
    this.after = element("button", { type: "button" }, "Next");
    this.before.addEventListener("click", () => this.turn(-LISTED));
    this.after.addEventListener("click", () => this.turn(LISTED));
    this.turns = element("p", { class: "tools", hidden: true }, this.before, this.after);
    this.charts = element("div", { class: "charts" });
    const choice = element("form", { class: "tools", role: "search" }, element("label", {}, "Find ", this.search), this.found);
    choice.addEventListener("submit", (event) => event.preventDefault());
    node.replaceChildren(
      element("p", { class: "tools" }, element("a", { href: "/windows" }, "All windows"),
        element("label", {}, "Chart of ", rangeChoice((ms) => this.course.choose(ms)))),
      this.charts,
      element("section", { class: "card", "aria-label": `Keys of ${name}` }, element("div", { class: "head" }, element("h2", {}, "Keys"), element("p", { class: "quiet" }, `up to ${MOST_KEYS} in the chart`)),
        choice, this.why, this.table, this.turns, this.bound));
    this.course = new Course({
      title: name, source: { window: name, key: null }, place: this.charts, page, spanMs: RANGES[1][1], heading: "h2", csv: (query) => csvOf(query),
    });
    this.poll = new Poll(EVERY_MS, () => this.load());
  }

  show(window, listens) {
    const parts = window ? factsOf(window) : ["There is no window of this name in the configuration."];
    show(this.course.head, parts, () => parts.map((part) => element("span", {}, part)));
    this.why.hidden = !window || window.emitted > 0;
    if (window) setText(this.why, whyEmpty(window, listens));
  }

  async load() {
    const query = new URLSearchParams({ window: this.name, search: this.search.value, offset: this.offset, limit: LISTED });
    const answer = await this.page.ask(`/api/windows/keys?${query}`);
    if (this.poll?.closed) return;
    const { results, found, known, kept, left_out: leftOut } = answer;
    if (this.chosen === null && results.length) {
      this.chosen = results.slice(0, 1).map((result) => result.key);
      this.course.compare(this.chosen);
    } else if (this.chosen === null) this.course.tell("");
    const last = Math.min(this.offset + LISTED, found);
    setText(this.found, found ? `${count(this.offset + 1)}–${count(last)} of ${plural(found, "key")}` : known ? "None of them fits." : "");
    this.turns.hidden = found <= LISTED;
    this.before.disabled = this.offset === 0;
    this.after.disabled = last >= found;
    this.bound.hidden = !leftOut;
    setText(this.bound, `There are more: the page shows the ${count(kept)} keys that gave a result last. All are in the buffer; see /api/aggregates.`);
    show(this.table, [results, this.chosen], () => (results.length ? this.keys(results) : []));
  }

  keys(results) {
    const row = ({ key, result, end_ms: end, kind, count: readings }) => {
      const box = element("input", { type: "checkbox", "aria-label": `Draw ${key || "all"}`, checked: this.chosen?.includes(key) });
      box.addEventListener("change", () => this.choose(key, box));
      return element("tr", {}, element("td", {}, box), element("th", { scope: "row" }, key || "all"), element("td", { "data-label": "last result" }, measured(result)),
        element("td", { class: "number", "data-label": "until" }, end ? moment(end) : "–"), element("td", { class: "number", "data-label": "readings" }, count(readings ?? 0)), element("td", { "data-label": "kind" }, kind === "on_time" ? "" : kind));
    };
    return element("div", { class: "table tall", tabindex: "0", role: "region", "aria-label": "Keys" }, element("table", {},
      element("thead", {}, element("tr", {}, ...[["draw"], ["key"], ["last result"], ["until", 1], ["readings", 1], ["kind"]].map(([name, number]) => element("th", { scope: "col", class: number && "number" }, name)))),
      element("tbody", {}, ...results.map(row))));
  }

  choose(key, box) {
    const others = (this.chosen ?? []).filter((one) => one !== key);
    if (box.checked && others.length >= MOST_KEYS) {
      box.checked = false;
      setText(this.found, `The chart holds ${MOST_KEYS} keys: take one out first.`);
      return;
    }
    this.chosen = box.checked ? [...others, key] : others;
    this.course.compare(this.chosen);
  }

  turn(by) {
    this.offset = Math.max(this.offset + by, 0);
    this.poll.now();
  }

  close() {
    this.poll.close();
    this.course.close();
  }
}

/** All numbers of the results, where one key is drawn; else what is drawn. */
function csvOf(query) {
  if (query.getAll("key").length > 1) return `/api/course?${query}&points=5000&format=csv`;
  const wanted = new URLSearchParams(query);
  wanted.delete("measure");
  return `/api/aggregates?${wanted}&format=csv`;
}
