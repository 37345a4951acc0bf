// The alarms: which are on, since when, who has seen them, with the chart around each; below, the alerts as they came.

import { alertItem } from "./alerts.js";
import { Course } from "./course.js";
import { element, setText, show } from "./dom.js";
import { count, duration, measure, moment, plural } from "./format.js";
import { Poll } from "./live.js";
import { LOADING, card, deviceLink } from "./parts.js";

const EVERY_MS = 2000;
const MINUTE = 60_000;
const LISTED = 50;
const STATES = [["on", "that are on"], ["active", "active"], ["acknowledged", "acknowledged"], ["cleared", "cleared"], ["all", "all"]];
const PILLS = { active: "bad", acknowledged: "warn", cleared: "ok" };

export class Alarms {
  title = "Alarms";

  constructor(place, page) {
    Object.assign(this, { page, rows: new Map(), windows: null, listed: LISTED });
    this.state = element("select", {}, ...STATES.map(([value, text]) => element("option", { value }, text)));
    this.search = element("input", { type: "search", autocomplete: "off", placeholder: "window or key" });
    this.by = element("input", { type: "text", autocomplete: "name", placeholder: "who you are", value: localStorage.getItem("by") ?? "" });
    this.by.addEventListener("change", () => localStorage.setItem("by", this.by.value));
    for (const field of [this.state, this.search]) field.addEventListener("input", () => this.poll.now());
    this.found = element("p", { class: "quiet", role: "status" }, LOADING);
    this.more = element("button", { type: "button", hidden: true }, `${LISTED} more`);
    this.more.addEventListener("click", () => { this.listed += LISTED; this.poll.now(); });
    this.all = element("button", { type: "button", hidden: true }, "Acknowledge all");
    this.all.addEventListener("click", () => this.change("acknowledge", { all: true }));
    this.problem = element("p", { class: "notice bad", role: "alert", hidden: true });
    this.list = element("ul", { class: "alarms plain tall", "aria-label": "Alarms" });
    this.alerts = element("div");
    const choice = element("form", { class: "tools", role: "search" }, element("label", {}, "Show ", this.state), element("label", {}, "Find ", this.search),
      element("label", {}, "Your name ", this.by), this.all, this.found);
    choice.addEventListener("submit", (event) => event.preventDefault());
    place.append(
      card("Alarms", { id: "alarms", wide: true }, choice, this.problem, this.list, this.more),
      card("Alerts", { id: "alerts", wide: true, note: element("p", { class: "quiet" }, "as they came, newest first") }, this.alerts));
    this.poll = new Poll(EVERY_MS, () => this.load());
  }

  async load() {
    const query = new URLSearchParams({ state: this.state.value, search: this.search.value, limit: this.listed });
    this.windows ??= await this.page.ask("/api/windows");
    const [told, alerts] = await Promise.all([this.page.ask(`/api/alarms?${query}`), this.page.ask("/api/alerts")]);
    if (query.get("state") !== this.state.value || this.poll?.closed) return;
    this.showAlarms(told);
    show(this.alerts, alerts, () => (alerts.length
      ? element("ul", { class: "plain tall", "aria-label": "The last alerts" }, ...alerts.map(alertItem))
      : element("p", { class: "quiet" }, "No alerts. Windows with the plugin threshold raise alerts, and so does the gateway when something is lost or damaged.")));
  }

  showAlarms({ alarms, counts, found, time_ms: now }) {
    const { active, acknowledged, cleared } = counts;
    const more = found > alarms.length ? `; the first ${count(alarms.length)} of ${count(found)} are shown` : "";
    setText(this.found, active + acknowledged + cleared ? `${count(active)} active, ${count(acknowledged)} acknowledged, ${count(cleared)} cleared${more}` : "");
    this.all.hidden = active < 2;
    this.more.hidden = found <= alarms.length;
    const names = alarms.map(nameOf);
    for (const [name, row] of this.rows) {
      if (!names.includes(name)) {
        row.close();
        this.rows.delete(name);
      }
    }
    alarms.forEach((alarm, at) => {
      const name = nameOf(alarm);
      if (!this.rows.has(name)) this.rows.set(name, new Row(this, alarm));
      const row = this.rows.get(name);
      row.show(alarm, now);
      if (this.list.children[at] !== row.node) this.list.insertBefore(row.node, this.list.children[at] ?? null);
    });
    this.none ??= element("li", { class: "quiet" });
    setText(this.none, found ? "" : this.state.value === "on" && !this.search.value ? "No alarm is on." : "None of them fits.");
    if (found) this.none.remove();
    else this.list.append(this.none);
  }

  /** Acknowledge or clear; the answer comes once it is on disk. */
  async change(action, what) {
    this.problem.hidden = true;
    const answer = await fetch(`/api/alarms/${action}`, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ ...what, by: this.by.value || undefined }),
    }).catch(() => null);
    if (answer?.status === 401) location.assign("/login");
    if (!answer?.ok) {
      setText(this.problem, answer ? await answer.text() : "The gateway does not answer.");
      this.problem.hidden = false;
    }
    await this.poll.now();
  }

  close() {
    this.poll.close();
    for (const row of this.rows.values()) row.close();
  }
}

const nameOf = ({ window, key }) => JSON.stringify([window, key]);

class Row {
  constructor(room, { window, key }) {
    Object.assign(this, { room, window, key });
    this.pill = element("span", { class: "pill" });
    this.said = element("div");
    this.acknowledge = element("button", { type: "button", "aria-label": `Acknowledge ${window} ${key}` }, "Acknowledge");
    this.clear = element("button", { type: "button", "aria-label": `Clear ${window} ${key}` }, "Clear");
    this.chart = element("button", { type: "button", "aria-expanded": "false", "aria-label": `Chart of ${window} ${key}` }, "Chart");
    this.acknowledge.addEventListener("click", () => room.change("acknowledge", { window, key }));
    this.clear.addEventListener("click", () => room.change("clear", { window, key }));
    this.chart.addEventListener("click", () => this.draw());
    this.place = element("div", { class: "wide", hidden: true });
    const device = this.shape()?.key === "{device}" ? deviceLink(key) : element("b", {}, key || "all");
    this.node = element("li", {},
      element("div", { class: "alarm" }, this.pill, element("b", {}, window), device),
      this.said, element("div", { class: "tools" }, this.acknowledge, this.clear, this.chart), this.place);
  }

  shape() {
    return this.room.windows.find((window) => window.name === this.window);
  }

  show(alarm, now) {
    this.alarm = alarm;
    setText(this.pill, alarm.state);
    this.pill.className = `pill ${PILLS[alarm.state]}`;
    this.acknowledge.hidden = alarm.state !== "active";
    this.clear.hidden = alarm.state === "cleared";
    const lasts = duration(Math.max(Math.floor(((alarm.ended_ms ?? now) - alarm.since_ms) / 1000), 1));
    const parts = [
      alarm.value === null ? null : `${alarm.value_name ?? "value"} ${measure(alarm.value)}${alarm.limit === null ? "" : `, limit ${measure(alarm.limit)}`}`,
      alarm.state === "cleared" ? `from ${moment(alarm.since_ms)}, for ${lasts}` : `since ${moment(alarm.since_ms)}, for ${lasts}`,
      alarm.priority === "normal" ? null : `priority ${alarm.priority}`,
      alarm.acknowledged_ms ? `acknowledged ${moment(alarm.acknowledged_ms)} by ${alarm.acknowledged_by}` : null,
      alarm.cleared_by ? `cleared by ${alarm.cleared_by}` : null,
      alarm.note,
    ].filter(Boolean);
    show(this.said, parts, () => element("p", { class: "facts" }, ...parts.map((part) => element("span", {}, part))));
  }

  draw() {
    const isOpen = this.place.hidden;
    this.place.hidden = !isOpen;
    this.chart.setAttribute("aria-expanded", String(isOpen));
    if (!isOpen || this.course) return;
    const source = this.source();
    if (!source) {
      this.place.append(element("p", { class: "quiet" }, "There is nothing to draw: no other window has this key, and it is no device."));
      return;
    }
    const { since_ms: since, ended_ms: ended, limit } = this.alarm;
    const span = Math.max(((ended ?? Date.now()) - since) / 2, 10 * MINUTE);
    this.course = new Course({
      title: `${this.window} ${this.key}`, source, place: this.place, page: this.room.page, spanMs: 60 * MINUTE,
      zoom: [since - span, Math.min((ended ?? Date.now()) + span, Date.now())], limit,
    });
  }

  /** The results of another window about the same, else what the device sent. */
  source() {
    const own = this.shape();
    if (!own) return null;
    const [field] = own.fields;
    const other = this.room.windows.find((window) => window.plugin !== own.plugin && window.key === own.key && window.fields.includes(field) && window.emitted);
    if (other) return { window: other.name, key: [this.key] };
    return own.key === "{device}" ? { device: this.key, field } : null;
  }

  close() {
    this.course?.close();
    this.node.remove();
  }
}
