// The main parts of the page: figures, buffer, devices, connections.

import { byId, element, facts, setText, show, table } from "./dom.js";
import { bytes, count, duration, moment, ppm, rate, sentence, signed } from "./format.js";

const STATES = [
  ["pending", "waiting", "waiting"],
  ["syncing", "on their way", "syncing"],
  ["synced", "sent, kept for a while", "synced"],
  ["failed", "given up", "failed"],
  ["corrupt", "corrupt", "corrupt"],
  ["kept", "kept here, not to be sent", "synced"],
];
const PRESSED = {
  SLOW_DOWN: ["warn", "More arrives than the gateway can keep up with: it asks devices to slow down. The card Backpressure says why."],
  REJECT_LOW_PRIORITY: ["bad", "The gateway is overloaded and turns low priority away. The card Backpressure says why."],
};
const STATUS = { ok: ["ok", "all is well"], degraded: ["warn", "needs attention"], failing: ["bad", "failing"] };

export function showAbout(state) {
  const about = state.gateway;
  const outage = about.status === "ok" && state.buffer.forecast.state === "outage";
  const pressed = about.status === "ok" && PRESSED[state.sections.backpressure?.action];
  const [kind, text] = outage ? ["warn", "no cloud"] : pressed ? [pressed[0], "overloaded"] : STATUS[about.status];
  document.title = `${kind === "ok" ? "" : "! "}${about.id} · gateway`;
  setText(byId("id"), about.id);
  setText(byId("status"), text);
  byId("status").className = `pill ${kind}`;
  setText(byId("about"), `version ${about.version}, up ${duration(about.uptime_s)}`);
}

export function showNotices(state, lostSince) {
  const notices = state ? [...noticesOf(state)] : [];
  if (lostSince) notices.unshift(["bad", `The gateway does not answer; the numbers are from ${moment(lostSince)}. Trying again.`]);
  const first = state && !lostSince && !taken(state) ? state.gateway.listens ?? [] : null;
  show(byId("notices"), [notices, first], () => [
    ...notices.map(([kind, text]) => element("p", { class: `notice ${kind}`, role: kind === "bad" ? "alert" : undefined }, text)),
    ...(first ? [firstSteps(first, state)] : []),
  ]);
}

const taken = (state) => Object.values(state.buffer.messages).reduce((sum, n) => sum + n, 0);

function* noticesOf(state) {
  for (const problem of state.gateway.problems) yield [state.gateway.status === "failing" ? "bad" : "warn", sentence(problem)];
  const { state: course, waiting } = state.buffer.forecast;
  if (course === "outage") yield ["warn", `No connection to the cloud. ${count(waiting)} events wait on disk; nothing is lost, and windows go on.`];
  const pressed = PRESSED[state.sections.backpressure?.action];
  if (pressed) yield pressed;
  const used = state.buffer.used_bytes / state.buffer.max_bytes;
  if (used > 0.8) yield ["bad", `The buffer has used ${Math.round(used * 100)} % of its ${bytes(state.buffer.max_bytes)}. Beyond 92 % it thins out what waits; see buffer.max_size.`];
  if (state.buffer.statuses.failed) yield ["warn", `${count(state.buffer.statuses.failed)} events were refused by the cloud for good. gateway buffer list --status failed shows them, gateway buffer retry sends them again.`];
  if (state.buffer.statuses.corrupt) yield ["bad", `${count(state.buffer.statuses.corrupt)} events have a wrong checksum and are not sent. Is the disk sound?`];
  const evicted = Object.entries(state.buffer.evicted).reduce((sum, [reason, n]) => sum + (reason === "synced" ? 0 : n), 0);
  if (evicted) yield ["warn", `${count(evicted)} events were evicted before the cloud had them; the alerts say which.`];
}

function firstSteps(listens, state) {
  const peer = state.links.find((link) => link.name === "ingest")?.peer ?? "localhost:1883";
  const port = peer.split(":").at(-1);
  const topic = (listens[0] ?? "sensors/#").replaceAll("+", "test").replace("#", "test");
  return element("div", { class: "notice tip" },
    element("h2", {}, "Nothing has come in yet"),
    element("p", {}, `The gateway listens on ${listens.join(", ") || "no topic"} at the broker ${peer}. Point a device there, or try:`),
    element("pre", { tabindex: "0" }, element("code", {}, `mosquitto_pub -p ${port} -q 1 -t '${topic}' -m '{"value": 21.5}'`)));
}

export function showFigures(state) {
  const { rates, buffer } = state;
  const wait = buffer.uncommitted ? `${count(buffer.uncommitted)} not committed yet` : "all on disk";
  const rejected = (buffer.messages.rejected ?? 0) + (buffer.messages.sampled ?? 0);
  const course = buffer.forecast;
  const figures = [
    ["Taken in", rate(rates.in_per_s), "/s", rejected ? `${wait}; ${count(rejected)} turned away` : wait],
    ["To the cloud", course.state === "local" ? "–" : rate(rates.out_per_s), course.state === "local" ? "" : "/s", course.state === "local" ? "no cloud configured" : "acknowledged events"],
    ["Waiting", count(course.waiting), "", { local: "kept here", live: "nothing piles up", outage: "the line is down", draining: "the backlog drains", growing: "more comes in than goes out" }[course.state]],
    ["Results", rate(rates.results_per_s), "/s", `${count(buffer.appended.aggregate ?? 0)} in all`],
  ];
  const body = byId("figures");
  if (!body.firstChild) {
    body.append(...figures.map(() => element("div", { class: "figure" }, element("span", { class: "quiet" }), element("b", {}, element("span"), element("small")), element("span", { class: "quiet" }))));
  }
  figures.forEach(([name, value, unit, note], at) => {
    const [label, number, below] = body.children[at].children;
    setText(label, name);
    setText(number.children[0], value);
    setText(number.children[1], unit);
    setText(below, note);
  });
}

export function showBuffer(buffer) {
  const { statuses, used_bytes: used, max_bytes: max } = buffer;
  setText(byId("buffer-size"), `${bytes(used)} of ${bytes(max)} on disk, last commit ${duration(buffer.commit_s)}`);
  const forecast = byId("forecast");
  setText(forecast, courseOf(buffer.forecast));
  const rows = STATES.filter(([name]) => statuses[name] || name === "pending" || name === "synced");
  const noted = (name, text) => name === "synced" && buffer.unconfirmed ? `${text}; ${count(buffer.unconfirmed)} wait for a receiver` : text;
  show(byId("states"), [statuses, buffer.unconfirmed], () => [bar(statuses), facts(rows.map(([name, text, kind]) => [
    element("span", { class: "dot-label" }, element("i", { class: `dot ${kind}`, "aria-hidden": "true" }), ` ${noted(name, text)}`), count(statuses[name])]), "states")]);
}

function courseOf({ state, waiting, empty_in_s: empty, full_in_s: full }) {
  const room = full === null ? "" : ` At this rate the room on disk lasts for ${duration(full)}.`;
  return {
    local: "Events stay on this machine: there is no cloud to send them to.",
    live: "The cloud keeps up.",
    outage: `The line is down and the buffer takes it all.${room}`,
    draining: `The backlog of ${count(waiting)} is gone in about ${empty === null ? "a while" : duration(empty)}.`,
    growing: `More comes in than goes out.${room}`,
  }[state];
}

function bar(statuses) {
  const total = Math.max(Object.values(statuses).reduce((sum, n) => sum + n, 0), 1);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 1000 10");
  svg.setAttribute("preserveAspectRatio", "none");
  let from = 0;
  for (const [name, , kind] of STATES) {
    const width = (statuses[name] / total) * 1000;
    const part = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    part.setAttribute("x", from);
    part.setAttribute("width", width);
    part.setAttribute("height", 10);
    part.setAttribute("class", kind);
    svg.append(part);
    from += width;
  }
  return element("div", { class: "bar", "aria-hidden": "true" }, svg);
}

export function showDevices(devices, now) {
  setText(byId("devices-known"), devices.known ? `${count(devices.known)} heard since the start` : "");
  const lists = [devices.silent, devices.wrong_clock, devices.unreadable];
  const minute = Math.floor(now / 10_000);
  show(byId("devices-body"), [devices.known, lists, devices.silent_count ? minute : 0], () => {
    if (!devices.known) return element("p", { class: "quiet" }, "No device has been heard since the gateway started.");
    const made = [];
    if (devices.silent_count) made.push(silent(devices, now));
    if (devices.wrong_clock_count) made.push(wrongClock(devices));
    if (devices.unreadable_count) made.push(unreadable(devices));
    return made.length ? made : element("p", {}, "All devices report as often as usual, and their clocks are right.");
  });
}

const title = (name, all, listed) => (all > listed.length ? `${name}: ${count(all)}, of which ${listed.length} are shown` : `${name}: ${count(all)}`);

const silent = (devices, now) => table(title("Fell silent", devices.silent_count, devices.silent),
  [{ name: "device" }, { name: "last heard", number: true }, { name: "usually every", number: true }],
  devices.silent.map((each) => [each.name, `${duration(Math.max(now - each.last_ms, 0) / 1000)} ago`, duration(each.interval_ms / 1000)]));

const wrongClock = (devices) => table(title("Clock is wrong", devices.wrong_clock_count, devices.wrong_clock),
  [{ name: "device" }, { name: "off by", number: true }, { name: "drift", number: true }, { name: "since", number: true }],
  devices.wrong_clock.map((each) => [each.name, signed(each.offset_ms / 1000), each.drift_ppm === null ? "" : ppm(each.drift_ppm), moment(each.wrong_since_ms)]));

const unreadable = (devices) => table(title("Cannot be read", devices.unreadable_count, devices.unreadable),
  [{ name: "device" }, { name: "payloads", number: true }, { name: "of", number: true }],
  devices.unreadable.map((each) => [each.name, count(each.undecoded), count(each.messages)]));

export function showLinks(links) {
  show(byId("links-body"), links, () => table("MQTT connections",
    [{ name: "name" }, { name: "broker" }, { name: "state" }, { name: "failures", number: true }],
    links.map((link) => [link.name, link.peer, stateOf(link), count(link.failures)])));
}

function stateOf(link) {
  if (!link.alive) return element("span", { class: "pill bad" }, "ended");
  if (link.connected) return element("span", { class: "pill ok" }, "connected");
  return element("span", {}, element("span", { class: "pill warn" }, "not connected"), element("br"), element("span", { class: "quiet" }, link.last_error || "trying"));
}
