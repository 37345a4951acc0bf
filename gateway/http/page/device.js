// One device: what it said last, its clock, and the course of each of its fields and of each window that it feeds.

import { Course, RANGES, rangeChoice } from "./course.js";
import { element, facts, setText, show } from "./dom.js";
import { count, duration, moment, plural, signed } from "./format.js";
import { Poll } from "./live.js";
import { messageItem } from "./message.js";
import { ago, reading } from "./parts.js";

const EVERY_MS = 2000;
const MESSAGES = 5;
const MOST_CHARTS = 24;

export class DevicePage {
  constructor(name, node, page) {
    Object.assign(this, { name, node, page, courses: new Map(), spanMs: RANGES[1][1] }); // courses by kind and name
    this.values = element("div");
    this.about = element("div");
    this.windows = element("div", { class: "cards" });
    this.fields = element("div", { class: "cards" });
    this.messages = element("ol", { class: "messages" });
    this.bound = element("p", { class: "quiet", hidden: true });
    this.noWindow = element("p", { class: "quiet", hidden: true }, "No window has this device as its key. Give a window key: \"{device}\" to see its results here.");
    this.gone = element("p", { class: "notice warn", hidden: true }, "No device of this name is known.");
    node.replaceChildren(
      element("p", { class: "tools" }, element("a", { href: "/devices" }, "All devices"), element("label", {}, "Charts of ", rangeChoice((ms) => this.range(ms), this.spanMs))),
      element("h2", { id: "title" }, name), this.gone,
      element("div", { class: "cards" },
        element("section", { class: "card", "aria-label": "Last values" }, element("h2", {}, "Last values"), this.values),
        element("section", { class: "card", "aria-label": "About it" }, element("h2", {}, "About it"), this.about)),
      element("h2", { class: "bare" }, "Results of windows"), this.noWindow, this.windows,
      element("h2", { class: "bare" }, "Readings"), this.bound, this.fields,
      element("h2", { class: "bare" }, "Last messages"), element("section", { class: "card", "aria-label": "Last messages" }, this.messages));
    this.poll = new Poll(EVERY_MS, () => this.load());
  }

  range(ms) {
    this.spanMs = ms;
    for (const course of this.courses.values()) course.choose(ms);
  }

  async load() {
    let device;
    try {
      device = await this.page.ask(`/api/devices/one?name=${encodeURIComponent(this.name)}`);
    } catch {
      this.gone.hidden = this.values.hasChildNodes();
      this.node.classList.toggle("gone", !this.gone.hidden);
      return;
    }
    if (this.poll?.closed) return;
    this.gone.hidden = true;
    this.node.classList.remove("gone");
    const now = device.time_ms;
    const beat = Math.floor(now / EVERY_MS);
    show(this.values, [device.values, beat], () => (device.values.length
      ? facts(device.values.map(({ field, value, unit, time_ms: at }) => [field,
        element("span", {}, element("b", {}, reading(value, unit)), element("span", { class: "quiet" }, ` ${ago(now, at)}`))]))
      : element("p", { class: "quiet" }, "There is no reading of this device to show yet.")));
    show(this.about, [device, beat], () => facts([
      ["last heard", `${ago(now, device.last_ms)}${device.silent ? ", silent" : ""}`],
      ["usually every", device.interval_ms === null ? "not known yet" : duration(device.interval_ms / 1000)],
      ["messages since the start", count(device.messages)],
      ["of them with a field missing", count(device.missed)],
      ["of them unreadable", count(device.undecoded)],
      ...device.clocks.map((clock) => ["its clock", clock.wrong_since_ms ? `${signed(clock.offset_ms / 1000)}, wrong since ${moment(clock.wrong_since_ms)}` : signed(clock.offset_ms / 1000)]),
      ...device.topics.map((topic) => ["topic", element("a", { href: `/messages?filter=${encodeURIComponent(topic)}`, title: "its messages" }, topic)]),
      ["feeds the windows", listed(device.windows.map((window) => element("a", { href: `/windows#${encodeURIComponent(window.name)}` }, window.name)), "none by its name")],
      ...device.alarms.slice(0, 5).map((alarm) => [element("a", { href: "/alarms" }, "alarm"), `${alarm.window}, ${alarm.state}, since ${moment(alarm.since_ms)}`]),
    ]));
    this.showMessages(device);
    this.noWindow.hidden = device.windows.length > 0;
    for (const { name } of device.windows) {
      this.draw(`window ${name}`, this.windows, { title: name, href: `/windows#${encodeURIComponent(name)}`, source: { window: name, key: [this.name] }, csv: csvOf });
    }
    const numbers = [...new Set(device.values.filter(({ value }) => typeof value !== "string").map(({ field }) => field))];
    for (const field of numbers.slice(0, MOST_CHARTS)) this.draw(`field ${field}`, this.fields, { title: field, source: { device: this.name, field } });
    this.tellBounds(device, numbers.slice(MOST_CHARTS));
  }

  tellBounds({ left_out_values: leftOut, has_more_topics: hasMore }, fields) {
    const said = [];
    if (fields.length) said.push(`${MOST_CHARTS} fields are drawn; not drawn: ${fields.slice(0, 50).join(", ")}${fields.length > 50 ? " and more" : ""}.`);
    if (leftOut) said.push(`${plural(leftOut, "value")} more are not shown.`);
    if (hasMore) said.push("It has more topics than are kept for this page.");
    setText(this.bound, said.join(" "));
    this.bound.hidden = !said.length;
  }

  /** Again only when another one has come: one that is being read stays. */
  async showMessages({ messages: number }) {
    if (this.seen === number || this.messages.contains(document.activeElement)) return;
    this.seen = number;
    const { messages } = await this.page.ask(`/api/messages?device=${encodeURIComponent(this.name)}&last=${MESSAGES}&once=true`);
    this.messages.replaceChildren(...(messages.length
      ? messages.reverse().map((message) => messageItem(message, this.page.ask))
      : [element("li", { class: "quiet" }, "None of its last messages is in the buffer.")]));
  }

  draw(id, place, what) {
    if (!this.courses.has(id)) this.courses.set(id, new Course({ ...what, place, page: this.page, spanMs: this.spanMs }));
  }

  close() {
    this.poll.close();
    for (const course of this.courses.values()) course.close();
    this.courses.clear();
  }
}

/** All numbers of the results, not only those that are drawn. */
function csvOf(query) {
  const wanted = new URLSearchParams(query);
  wanted.delete("measure");
  return `/api/aggregates?${wanted}&format=csv`;
}

function listed(nodes, none) {
  return nodes.length ? element("span", {}, ...nodes.flatMap((node, at) => (at ? [", ", node] : [node]))) : none;
}
