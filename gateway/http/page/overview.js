// The room at the door: is all well, what comes in and goes out, and what needs a look.

import { alertItem } from "./alerts.js";
import { Chart } from "./charts.js";
import { element, inTurns, setText, show } from "./dom.js";
import { count, measure, moment, plural, rate, sentence } from "./format.js";
import { card, courseOf, linksTable, troubledDevices, way } from "./parts.js";
import { withBreaks } from "./series.js";

const COURSES = { local: "kept here", live: "nothing piles up", outage: "the line is down", draining: "the backlog drains", growing: "more comes in than goes out" };

export class Overview {
  title = "Overview";

  constructor(place, page) {
    this.page = page;
    this.first = element("div", { class: "wide", hidden: true });
    this.figures = element("section", { class: "figures", "aria-label": "Key figures" });
    this.flowPlace = element("div", { class: "chart" });
    this.toCloud = element("span", { hidden: true }, element("i", { class: "dot c2", "aria-hidden": "true" }), "to the cloud");
    this.forecast = element("p", { "aria-live": "polite" });
    this.windows = element("div");
    this.devices = element("div");
    this.known = element("span");
    this.alarms = element("div", { "aria-live": "polite" });
    this.alerts = element("div", { "aria-live": "polite" });
    this.links = element("div");
    place.append(
      this.first, this.figures,
      card("Throughput", { note: element("p", { class: "quiet" }, "messages per second, the last 15 minutes"), wide: true }, this.flowPlace,
        element("div", { class: "keys" }, element("span", {}, element("i", { class: "dot c1", "aria-hidden": "true" }), "taken in"), this.toCloud)),
      element("div", { class: "column" },
        card("Devices", { id: "devices", note: element("p", { class: "quiet" }, this.known, " ", way("/devices", "all devices")) }, this.devices),
        card("Windows", { id: "windows", note: element("p", { class: "quiet" }, way("/windows", "all windows")) }, this.windows),
        card("Buffer", { id: "buffer", note: element("p", { class: "quiet" }, way("/buffer", "buffer and cloud")) }, this.forecast)),
      element("div", { class: "column" },
        card("Alarms", { id: "alarms", note: element("p", { class: "quiet" }, way("/alarms", "all alarms")) }, this.alarms, this.alerts),
        card("Connections", { id: "links" }, this.links)));
  }

  /** Numbers first, the chart last: over several frames when the room opens. */
  async show(state) {
    this.state = state;
    if (this.isDrawing) return;
    this.isDrawing = true;
    const parts = [this.showFirstSteps, this.showFigures, this.showAlarms, this.showDevices, this.showWindows, this.showConnections, this.drawFlow];
    try {
      await inTurns(parts.map((part) => () => part.call(this, this.state)), () => !this.isClosed);
    } finally {
      this.isDrawing = false;
    }
  }

  showConnections({ buffer, links }) {
    setText(this.forecast, courseOf(buffer.forecast));
    show(this.links, links, () => linksTable(links));
  }

  showAlarms({ alarms, alerts }) {
    const { active, acknowledged } = alarms.counts;
    const said = active + acknowledged ? `${count(active)} active, ${count(acknowledged)} acknowledged.` : "No alarm is on.";
    show(this.alarms, [said, alarms.on], () => [element("p", { class: active ? "bad" : undefined }, said),
      element("ul", { class: "plain" }, ...alarms.on.map(({ window, key, value, limit, since_ms: since, state }) => element("li", {},
        element("b", {}, `${window} ${key}`), " ", element("span", { class: "quiet" }, `${state}, since ${moment(since)}`), element("br"),
        value === null ? "" : `${measure(value)}${limit === null ? "" : `, limit ${measure(limit)}`}`)))]);
    const others = alerts.newest.filter((alert) => !alert.window);
    show(this.alerts, others, () => (others.length ? element("ul", { class: "plain" }, ...others.map(alertItem)) : []));
  }

  showFirstSteps(state) {
    const taken = Object.values(state.buffer.messages).reduce((sum, n) => sum + n, 0);
    this.first.hidden = taken > 0;
    if (taken) return;
    const listens = state.gateway.listens ?? [];
    const peer = state.links.find((link) => link.name === "ingest")?.peer ?? "localhost:1883";
    const [host, port] = [peer.slice(0, peer.lastIndexOf(":")), peer.split(":").at(-1)];
    const at = /^(127\.|localhost)/.test(host) ? "" : `-h ${host} `;
    const topic = (listens[0] ?? "sensors/#").replaceAll("+", "test").replace("#", "test");
    show(this.first, [listens, peer], () => element("div", { class: "notice tip" },
      element("h2", {}, "Nothing has come in yet"),
      element("p", {}, `The gateway listens on ${listens.join(", ") || "no topic"} at the broker ${peer}. Point a device there, or try:`),
      element("pre", { tabindex: "0" }, element("code", {}, `mosquitto_pub ${at}-p ${port} -q 1 -t '${topic}' -m '{"value": 21.5}'`))));
  }

  showFigures({ rates, buffer }) {
    const wait = buffer.uncommitted ? `${count(buffer.uncommitted)} not committed yet` : "all on disk";
    const rejected = (buffer.messages.rejected ?? 0) + (buffer.messages.sampled ?? 0);
    const { state: course, waiting } = buffer.forecast;
    const isLocal = course === "local";
    const figures = [
      ["Taken in", rate(rates.in_per_s), "/s", rejected ? `${wait}; ${count(rejected)} turned away` : wait],
      ["To the cloud", isLocal ? "–" : rate(rates.out_per_s), isLocal ? "" : "/s", isLocal ? "no cloud configured" : "acknowledged events"],
      ["Waiting", count(waiting), "", COURSES[course]],
      ["Results", rate(rates.results_per_s), "/s", `${count(buffer.appended.aggregate ?? 0)} in all`],
    ];
    if (!this.figures.firstChild) {
      this.figures.append(...figures.map(() => element("div", { class: "figure" }, element("span", { class: "quiet" }), element("b", {}, element("span"), element("small")), element("span", { class: "quiet" }))));
    }
    figures.forEach(([name, value, unit, note], at) => {
      const [label, number, below] = this.figures.children[at].children;
      setText(label, name);
      setText(number.children[0], value);
      setText(number.children[1], unit);
      setText(below, note);
    });
  }

  drawFlow(state) {
    const hasCloud = state.buffer.forecast.state !== "local";
    const rows = withBreaks(this.page.live.rows);
    const lines = [{ label: "taken in", colour: "--s1", fill: true }];
    const data = [rows.map((row) => row[0] / 1000), rows.map((row) => row[1])];
    if (hasCloud) {
      lines.push({ label: "to the cloud", colour: "--s2" });
      data.push(rows.map((row) => row[2]));
    }
    this.toCloud.hidden = !hasCloud;
    this.flow ??= new Chart(this.flowPlace, lines, "Messages per second taken in and sent to the cloud, the last 15 minutes");
    this.flow.set(data, lines);
  }

  showDevices({ devices, time_ms: now }) {
    setText(this.known, devices.known ? `${count(devices.known)} known:` : "");
    const troubles = [devices.silent, devices.wrong_clock, devices.unreadable, devices.silent_count, devices.wrong_clock_count, devices.unreadable_count];
    show(this.devices, [devices.known > 0, troubles, devices.silent_count ? Math.floor(now / 10_000) : 0], () => {
      if (!devices.known) return element("p", { class: "quiet" }, "No device has been heard yet.");
      const made = troubledDevices(devices, now);
      return made.length ? made : element("p", {}, "All devices report as often as usual, and their clocks are right.");
    });
  }

  showWindows({ windows, buffer, unmatched }) {
    const said = unmatched.map(sentence);
    if (!windows.configured) said.push("No windows are configured.");
    else {
      said.push(`${plural(windows.configured, "window")} ${windows.configured === 1 ? "has" : "have"} given ${plural(windows.emitted, "result")}.`);
      if (!windows.events) said.push("No reading has come yet.");
      if (windows.late_dropped) said.push(`${plural(windows.late_dropped, "reading")} came too late.`);
      if (windows.plugin_errors) said.push(`Plugins failed ${plural(windows.plugin_errors, "time")}.`);
    }
    if (buffer.field_misses) said.push(`${plural(buffer.field_misses, "field")} ${buffer.field_misses === 1 ? "was" : "were"} missing in messages.`);
    show(this.windows, said, () => said.map((text) => element("p", {}, text)));
  }

  close() {
    this.isClosed = true;
    this.flow?.destroy();
  }
}
