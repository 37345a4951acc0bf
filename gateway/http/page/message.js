// One message: what was read out of it, its event time and why, and on request the windows that it falls into.

import { element } from "./dom.js";
import { count, duration, plural, time, words } from "./format.js";

export function messageItem(message, ask) {
  const explain = element("button", { type: "button", class: "link", "aria-expanded": "false" }, "explain");
  const more = element("div", { hidden: true });
  explain.addEventListener("click", () => showMore(message, explain, more, ask));
  return element("li", {},
    element("p", { class: "head" }, element("b", {}, message.topic), element("span", { class: "quiet" }, [message.route ?? "no route", time(message.arrival_ms), ...message.flags.map(words)].join(", ")), explain),
    element("p", {}, message.problem ? element("span", { class: "bad" }, `cannot be read: ${words(message.problem)}`) : readingsOf(message)),
    oddities(message),
    element("p", { class: "quiet" }, whenOf(message)),
    element("code", { class: "payload" }, payloadOf(message)), more);
}

async function showMore(message, button, place, ask) {
  place.hidden = !place.hidden;
  button.setAttribute("aria-expanded", String(!place.hidden));
  if (place.hidden || place.hasChildNodes()) return;
  try {
    place.append(explanation(await ask(`/api/explain?id=${message.id}`)));
  } catch (problem) {
    place.append(element("p", { class: "quiet" }, problem.message));
  }
}

function readingsOf({ readings, more_readings: more }) {
  if (!readings.length) return element("span", { class: "quiet" }, "no reading");
  const said = readings.map(({ fields }) => Object.entries(fields).map(([name, value]) => `${name} ${typeof value === "string" ? `“${value}”` : value}`).join(", ") || "no field");
  return said.join(" · ") + (more ? ` · and ${plural(more, "more reading")}` : "");
}

function oddities({ misses = [], filtered, notes = [] }) {
  const said = [];
  if (misses.length) said.push(`missing: ${misses.join(", ")}`);
  if (filtered) said.push(`${plural(filtered, "reading")} left out by where`);
  said.push(...notes.map(words));
  return said.length ? element("p", { class: "warn" }, said.join("; ")) : null;
}

function whenOf({ event_time_ms: at, arrival_ms: arrival, reason }) {
  if (at === undefined) return reason;
  const away = Math.abs(arrival - at);
  const day = away > 43_200_000 ? `${new Date(at).toLocaleDateString()} ` : "";
  return `event time ${day}${time(at)}${away >= 1000 ? `, ${duration(away / 1000)} ${at < arrival ? "before" : "after"} it came` : ""}: ${reason}`;
}

function payloadOf({ payload, payload_base64: base64, bytes }) {
  const text = payload ?? `base64 ${base64}`;
  return (payload ?? "").length < bytes && text.length >= 1900 ? `${text} … (${count(bytes)} bytes)` : text || "(empty)";
}

function explanation(told) {
  const windows = told.windows.map(({ window, key, start_ms: start, end_ms: end, note }) => element("li", {},
    element("b", {}, window), key === null ? "" : ` key ${key || "all"}`, start ? `, ${time(start)} to ${time(end)}` : "", note ? `: ${note}` : ""));
  const near = Object.entries(told.near).map(([name, other]) => `${name} is missing; did you mean ${other}?`);
  return element("div", { class: "explained" },
    ...near.map((text) => element("p", { class: "warn" }, text)),
    element("p", {}, windows.length ? "Windows that it falls into, each by itself:" : "No window takes a reading of it."),
    element("ul", {}, ...windows),
    told.came.length ? element("p", { class: "quiet" }, `Names in it: ${told.came.join(", ")}`) : null);
}
