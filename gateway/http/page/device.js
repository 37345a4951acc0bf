// One device: what it said last, its clock, and a chart of each window that it feeds.

import { element, facts, setText, show } from "./dom.js";
import { count, duration, measure, moment, signed } from "./format.js";
import { Course, RANGES } from "./course.js";

export class DevicePage {
  constructor(name, node, ask) {
    this.name = name;
    this.ask = ask;
    this.courses = new Map(); // by window
    this.values = element("div", {});
    this.about = element("div", {});
    this.charts = element("div", { class: "cards" });
    this.range = element("select", { "aria-label": "Range of time", id: "range" },
      ...RANGES.map(([text, ms]) => element("option", { value: ms, selected: ms === RANGES[1][1] }, text)));
    this.range.addEventListener("change", () => this.courses.forEach((course) => course.choose(Number(this.range.value))));
    this.none = element("p", { class: "quiet", hidden: true },
      "No window has this device as its key, so there is nothing to draw. Give a window key: \"{device}\" for its charts.");
    node.replaceChildren(
      element("p", { class: "tools" }, element("a", { href: "#" }, "All devices"), element("label", {}, "Charts of ", this.range)),
      element("div", { class: "cards" },
        element("section", { class: "card", "aria-label": "Last values" }, element("h2", {}, "Last values"), this.values),
        element("section", { class: "card", "aria-label": "About it" }, element("h2", {}, "About it"), this.about)),
      element("h2", { class: "bare" }, "Course"), this.none, this.charts);
  }

  /** Returns the time of what is shown. */
  async refresh() {
    const device = await this.ask(`/api/devices/one?name=${encodeURIComponent(this.name)}`);
    const now = device.time_ms;
    const age = (ms) => `${duration(Math.round(Math.max(now - ms, 0) / 1000))} ago`;
    show(this.values, [device.values, Math.floor(now / 2000)], () => (device.values.length
      ? facts(device.values.map(({ field, value, unit, time_ms: at }) => [field,
        element("span", {}, element("b", {}, `${typeof value === "number" ? measure(value) : String(value ?? "–")}${unit ? ` ${unit}` : ""}`), element("span", { class: "quiet" }, ` ${age(at)}`))]))
      : element("p", { class: "quiet" }, "There is no reading of this device to show yet.")));
    show(this.about, [device, Math.floor(now / 2000)], () => facts([
      ["last heard", `${age(device.last_ms)}${device.silent ? ", silent" : ""}`],
      ["usually every", device.interval_ms === null ? "not known yet" : duration(device.interval_ms / 1000)],
      ["messages since the start", count(device.messages)],
      ["of them unreadable", count(device.undecoded)],
      ...device.clocks.map((clock) => ["its clock", clock.wrong_since_ms ? `${signed(clock.offset_ms / 1000)}, wrong since ${moment(clock.wrong_since_ms)}` : signed(clock.offset_ms / 1000)]),
      ...device.topics.map((topic) => ["topic", topic]),
      ["feeds the windows", device.windows.map((window) => window.name).join(", ") || "none by its name"],
      ...device.alerts.slice(0, 5).map((alert) => ["alert", `${alert.window ?? ""} ${moment(alert.time_ms ?? alert.end_ms ?? now)}`]),
    ]));
    this.none.hidden = device.windows.length > 0;
    for (const window of device.windows) {
      if (!this.courses.has(window.name)) {
        const course = new Course(window, this.name, this.charts, this.ask);
        this.courses.set(window.name, course);
        course.choose(Number(this.range.value));
      }
    }
    return now;
  }

  close() {
    for (const course of this.courses.values()) course.close();
    this.courses.clear();
  }
}
