// The room of the devices: a table of all of them, and behind #NAME one device with its charts.

import { DevicePage } from "./device.js";
import { byId, element, setText, show } from "./dom.js";
import { count, duration, measure, plural, signed, time } from "./format.js";
import "./theme.js";

const EVERY_MS = 2000;
const LISTED = 50;
const COLUMNS = [
  { name: "name", sort: "name" }, { name: "last values" }, { name: "heard", sort: "heard", number: true },
  { name: "every", sort: "rate", number: true }, { name: "clock", number: true },
  { name: "unreadable", sort: "unreadable", number: true }, { name: "alerts", number: true },
];
const order = { sort: "name", descending: false };
let offset = 0;
let page = null;
let timer = 0;

export async function ask(path, form = "json") {
  const answer = await fetch(path, { headers: { Accept: "application/json" } });
  if (answer.status === 401) location.assign("/login");
  if (!answer.ok) throw new Error(await answer.text());
  return form === "json" ? answer.json() : answer.text();
}

const chosen = () => decodeURIComponent(location.hash.slice(1));

async function refresh() {
  clearTimeout(timer);
  if (!document.hidden) {
    try {
      if (chosen()) await showOne();
      else await showAll();
      byId("status").hidden = true;
    } catch (problem) {
      byId("status").hidden = false;
      byId("status").className = "pill bad";
      setText(byId("updated"), problem.message);
    }
  }
  clearTimeout(timer);
  timer = setTimeout(refresh, EVERY_MS);
}

async function showAll() {
  page?.close();
  page = null;
  byId("list").hidden = false;
  byId("one").hidden = true;
  setText(byId("title"), "Devices");
  document.title = "Devices";
  const wanted = new URLSearchParams({ ...order, search: byId("search").value, only: byId("only").value, offset, limit: LISTED });
  const answer = await ask(`/api/devices/table?${wanted}`);
  if (chosen()) return;
  const last = Math.min(offset + LISTED, answer.found);
  setText(byId("found"), answer.found ? `${count(offset + 1)}–${count(last)} of ${plural(answer.found, "device")}` : whyNone(answer.known));
  byId("before").disabled = offset === 0;
  byId("after").disabled = last >= answer.found;
  byId("before").parentNode.hidden = answer.found <= LISTED;
  show(byId("table"), [answer, order], () => table(answer));
  setText(byId("updated"), `updated ${time(answer.time_ms)}`);
}

const whyNone = (known) => (known ? "None of them fits." : "No device has been heard since the gateway started.");

function table({ devices, time_ms: now }) {
  return element("div", { class: "table tall", tabindex: "0", role: "region", "aria-label": "Devices" },
    element("table", {},
      element("thead", {}, element("tr", {}, ...COLUMNS.map(head))),
      element("tbody", {}, ...devices.map((device) => element("tr", {}, ...cells(device, now).map((cell, at) =>
        element(at ? "td" : "th", { class: COLUMNS[at].number ? "number" : undefined, scope: at ? undefined : "row" }, cell)))))));
}

function head(column) {
  const sorted = column.sort === order.sort;
  const aria = sorted ? (order.descending ? "descending" : "ascending") : undefined;
  const made = element("th", { scope: "col", class: column.number ? "number" : undefined, "aria-sort": aria });
  if (!column.sort) made.append(column.name);
  else {
    const button = element("button", { type: "button", class: "sort", "data-sort": column.sort }, `${column.name}${sorted ? (order.descending ? " ↓" : " ↑") : ""}`);
    made.append(button);
  }
  return made;
}

function cells(device, now) {
  const ago = duration(Math.round(Math.max(now - device.last_ms, 0) / 1000));
  const more = device.more_values ? ` and ${device.more_values} more` : "";
  return [
    element("a", { href: `#${encodeURIComponent(device.name)}` }, device.name),
    device.values.map(said).join(", ") + more || "–",
    element("span", { class: device.silent ? "warn" : undefined }, `${ago} ago${device.silent ? ", silent" : ""}`),
    device.interval_ms === null ? "–" : duration(device.interval_ms / 1000),
    device.clock_off_ms === null ? "" : element("span", { class: "warn" }, signed(device.clock_off_ms / 1000)),
    device.undecoded ? `${count(device.undecoded)} of ${count(device.messages)}` : "",
    device.alerts ? element("span", { class: "bad" }, count(device.alerts)) : "",
  ];
}

const said = ({ field, value, unit }) => `${field} ${typeof value === "number" ? measure(value) : String(value ?? "–")}${unit ? ` ${unit}` : ""}`;

async function showOne() {
  const name = chosen();
  if (page?.name !== name) {
    page?.close();
    byId("list").hidden = true;
    byId("one").hidden = false;
    setText(byId("title"), name);
    document.title = name;
    page = new DevicePage(name, byId("one"), ask);
  }
  setText(byId("updated"), `updated ${time(await page.refresh())}`);
}

byId("table").addEventListener("click", (event) => {
  const { sort } = event.target.dataset;
  if (!sort) return;
  order.descending = order.sort === sort && !order.descending;
  order.sort = sort;
  refresh().then(() => byId("table").querySelector(`[data-sort="${sort}"]`)?.focus());
});
byId("choice").addEventListener("submit", (event) => event.preventDefault());
for (const name of ["search", "only"]) {
  byId(name).addEventListener("input", () => {
    offset = 0;
    refresh();
  });
}
byId("before").addEventListener("click", () => { offset = Math.max(offset - LISTED, 0); refresh(); });
byId("after").addEventListener("click", () => { offset += LISTED; refresh(); });
addEventListener("hashchange", refresh);
document.addEventListener("visibilitychange", refresh);
document.addEventListener("DOMContentLoaded", refresh);
if (document.readyState === "complete") refresh();
