// The windows: one card each with the course of a few keys, and behind #NAME one window with all of its keys.

import { Course, RANGES, rangeChoice } from "./course.js";
import { element, setText, show } from "./dom.js";
import { count, duration, plural, words } from "./format.js";
import { Poll } from "./live.js";
import { LOADING, showNamed } from "./parts.js";
import { WindowPage } from "./window.js";

const EVERY_MS = 3000;
const LINES = 6;

export class Windows {
  title = "Windows";

  constructor(place, page) {
    this.page = page;
    this.cards = new Map();
    this.spanMs = RANGES[0][1];
    this.search = element("input", { type: "search", autocomplete: "off", placeholder: "part of a name" });
    this.search.addEventListener("input", () => this.choose());
    this.found = element("p", { class: "quiet", role: "status" }, LOADING);
    this.body = element("div", { class: "cards", id: "windows-body" });
    this.list = element("section", { class: "wide", id: "windows", "aria-label": "All windows" },
      element("form", { class: "tools", role: "search" }, element("label", {}, "Find ", this.search),
        element("label", {}, "Charts of ", rangeChoice((ms) => this.range(ms), this.spanMs)), this.found),
      this.body);
    this.list.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
    this.one = element("section", { class: "wide", hidden: true });
    place.append(this.list, this.one);
    this.poll = new Poll(EVERY_MS, () => this.load());
    this.moved();
  }

  moved() {
    showNamed(this, "Windows", (name) => new WindowPage(name, this.one, this.page));
  }

  async load() {
    const windows = await this.page.ask("/api/windows");
    if (this.opened) {
      this.opened.show(windows.find((window) => window.name === this.opened.name), (this.page.state?.gateway.listens ?? []).join(", "));
      return;
    }
    if (!windows.length) {
      show(this.body, "none", () => element("div", { class: "card" }, element("p", {}, "No windows are configured."),
        element("p", { class: "quiet" }, "Add one below windows: in the configuration, and it appears here once the gateway has reloaded it (kill -HUP).")));
      return;
    }
    const listens = (this.page.state?.gateway.listens ?? []).join(", ");
    for (const window of windows) {
      if (!this.cards.has(window.name)) this.cards.set(window.name, new Card(window, this.body, this.page, this.spanMs));
      this.cards.get(window.name).show(window, listens);
    }
    this.choose();
  }

  choose() {
    const part = this.search.value.toLowerCase();
    let shown = 0;
    for (const [name, card] of this.cards) {
      card.course.node.hidden = !name.toLowerCase().includes(part);
      shown += !card.course.node.hidden;
    }
    setText(this.found, part ? `${count(shown)} of ${plural(this.cards.size, "window")}` : plural(this.cards.size, "window"));
  }

  range(ms) {
    this.spanMs = ms;
    for (const { course } of this.cards.values()) course.choose(ms);
  }

  close() {
    this.poll.close();
    this.opened?.close();
    for (const { course } of this.cards.values()) course.close();
  }
}

class Card {
  constructor(window, place, page, spanMs) {
    Object.assign(this, { page, emitted: -1, name: window.name });
    this.course = new Course({
      title: window.name, href: `#${encodeURIComponent(window.name)}`, source: { window: window.name, key: null }, place, page, spanMs, small: true, heading: "h2",
    });
  }

  show(window, listens) {
    const parts = factsOf(window);
    show(this.course.head, parts, () => parts.map((part) => element("span", {}, part)));
    if (!window.emitted) {
      this.course.tell(whyEmpty(window, listens));
      return;
    }
    if (this.course.seen && window.emitted !== this.emitted) this.load(window);
  }

  async load(window) {
    this.emitted = window.emitted;
    const { results, found } = await this.page.ask(`/api/windows/keys?window=${encodeURIComponent(window.name)}&limit=${LINES}`);
    const keys = results.map((result) => result.key);
    if (!keys.length) {
      this.course.tell("None of the last results is of this window. What it raised is in the room Alarms.");
      return;
    }
    if (JSON.stringify(keys) !== JSON.stringify(this.course.source.key)) this.course.compare(keys);
    const more = found - keys.length;
    setText(this.course.note, more > 0 ? `and ${plural(more, "more key")}: open ${window.name} to choose.` : "");
    this.course.note.hidden = more <= 0;
  }
}

export function factsOf(window) {
  const lag = window.lag_ms === null ? "no watermark yet" : `watermark ${duration(window.lag_ms / 1000)} behind`;
  const parts = [describe(window), lag, plural(window.keys, "key"), `${count(window.open_windows)} open`, plural(window.emitted, "result")];
  for (const name of ["corrections", "late_dropped", "plugin_errors", "keys_rejected"]) {
    if (window[name]) parts.push(`${count(window[name])} ${words(name)}`);
  }
  return parts;
}

export function whyEmpty(window, listens) {
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
