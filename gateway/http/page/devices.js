// The devices: a table of all of them, and behind #NAME one device with its charts.

import { DevicePage } from "./device.js";
import { element, setText, show } from "./dom.js";
import { count, duration, plural, signed } from "./format.js";
import { Poll } from "./live.js";
import { LOADING, ago, deviceLink, reading, showNamed } from "./parts.js";

const EVERY_MS = 3000;
const LISTED = 50;
const COLUMNS = [
  { name: "name", sort: "name" }, { name: "last values" }, { name: "heard", sort: "heard", number: true },
  { name: "every", sort: "rate", number: true }, { name: "clock", number: true },
  { name: "misses", sort: "misses", number: true }, { name: "unreadable", sort: "unreadable", number: true }, { name: "alarms", number: true },
];
const KINDS = [["all", "all"], ["silent", "silent"], ["clock", "wrong clock"], ["misses", "with missing fields"], ["unreadable", "cannot be read"], ["alarms", "with alarms"]];

export class Devices {
  title = "Devices";

  constructor(place, page) {
    Object.assign(this, { page, offset: 0, order: { sort: "name", descending: false } });
    this.search = element("input", { id: "search", type: "search", autocomplete: "off", placeholder: "part of a name" });
    this.only = element("select", { id: "only" }, ...KINDS.map(([value, text]) => element("option", { value }, text)));
    this.found = element("p", { class: "quiet", id: "found", role: "status" }, LOADING);
    this.table = element("div", { id: "table" });
    this.before = element("button", { type: "button" }, "Before");
    this.after = element("button", { type: "button" }, "Next");
    this.turns = element("p", { class: "tools" }, this.before, this.after);
    const choice = element("form", { class: "tools", role: "search" }, element("label", {}, "Find ", this.search), element("label", {}, "Show ", this.only), this.found);
    this.list = element("section", { class: "card wide", id: "list", "aria-label": "All devices" }, choice, this.table, this.turns);
    this.one = element("section", { class: "wide", id: "one", hidden: true });
    place.append(this.list, this.one);
    this.table.addEventListener("click", (event) => this.sort(event.target.dataset.sort));
    choice.addEventListener("submit", (event) => event.preventDefault());
    for (const field of [this.search, this.only]) field.addEventListener("input", () => this.turn(-this.offset));
    this.before.addEventListener("click", () => this.turn(-LISTED));
    this.after.addEventListener("click", () => this.turn(LISTED));
    this.poll = new Poll(EVERY_MS, () => this.load());
    this.moved();
  }

  moved() {
    showNamed(this, "Devices", (name) => new DevicePage(name, this.one, this.page));
  }

  turn(by) {
    this.offset = Math.max(this.offset + by, 0);
    this.poll.now();
  }

  async sort(column) {
    if (!column) return;
    this.order = { sort: column, descending: this.order.sort === column && !this.order.descending };
    await this.poll.now();
    this.table.querySelector(`[data-sort="${column}"]`)?.focus();
  }

  async load() {
    if (this.opened) return;
    const wanted = new URLSearchParams({ ...this.order, search: this.search.value, only: this.only.value, offset: this.offset, limit: LISTED });
    const answer = await this.page.ask(`/api/devices/table?${wanted}`);
    if (this.opened || wanted.get("search") !== this.search.value) return;
    const last = Math.min(this.offset + LISTED, answer.found);
    setText(this.found, answer.found ? `${count(this.offset + 1)}–${count(last)} of ${plural(answer.found, "device")}` : whyNone(answer.known));
    this.before.disabled = this.offset === 0;
    this.after.disabled = last >= answer.found;
    this.turns.hidden = answer.found <= LISTED;
    this.table.hidden = !answer.found;
    show(this.table, [answer.devices, this.order, Math.floor(answer.time_ms / 5000)], () => this.rows(answer));
  }

  rows({ devices, time_ms: now }) {
    return element("div", { class: "table tall", tabindex: "0", role: "region", "aria-label": "Devices" },
      element("table", {},
        element("thead", {}, element("tr", {}, ...COLUMNS.map((column) => this.head(column)))),
        element("tbody", {}, ...devices.map((device) => element("tr", {}, ...cells(device, now).map((cell, at) =>
          element(at ? "td" : "th", { class: COLUMNS[at].number ? "number" : undefined, scope: at ? undefined : "row", "data-label": at ? COLUMNS[at].name : undefined }, cell)))))));
  }

  head({ name, sort, number }) {
    const isSorted = sort === this.order.sort && Boolean(sort);
    const made = element("th", { scope: "col", class: number ? "number" : undefined, "aria-sort": isSorted ? (this.order.descending ? "descending" : "ascending") : undefined });
    made.append(sort ? element("button", { type: "button", class: "sort", "data-sort": sort }, `${name}${isSorted ? (this.order.descending ? " ↓" : " ↑") : ""}`) : name);
    return made;
  }

  close() {
    this.poll.close();
    this.opened?.close();
  }
}

const whyNone = (known) => (known ? "None of them fits." : "No device has been heard yet.");

function cells(device, now) {
  return [
    deviceLink(device.name),
    device.values.length ? lastValues(device, now) : "–",
    element("span", { class: device.silent ? "warn" : undefined }, `${ago(now, device.last_ms)}${device.silent ? ", silent" : ""}`),
    device.interval_ms === null ? "–" : duration(device.interval_ms / 1000),
    device.clock_off_ms === null ? "" : element("span", { class: "warn" }, signed(device.clock_off_ms / 1000)),
    device.missed ? `${count(device.missed)} of ${count(device.messages)}` : "",
    device.undecoded ? `${count(device.undecoded)} of ${count(device.messages)}` : "",
    device.alarms ? element("span", { class: "bad" }, count(device.alarms)) : "",
  ];
}

/** Each value with its unit; those of one message share their age. */
function lastValues({ values, more_values: more }, now) {
  const said = values.flatMap(({ field, value, unit, time_ms: at }, place) => {
    const next = values[place + 1];
    const age = next?.time_ms === at ? "" : element("span", { class: "quiet" }, ` ${ago(now, at)}`);
    return [`${field} ${reading(value, unit)}`, age, next ? ", " : ""];
  });
  return element("span", {}, ...said, more ? ` and ${more} more` : "");
}
