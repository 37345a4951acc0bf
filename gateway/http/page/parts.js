// Parts that more than one room shows: the way of the backlog, devices that need a look, connections.

import { element, table } from "./dom.js";
import { count, duration, measure, moment, ppm, signed } from "./format.js";

export const card = (title, { note, id, wide } = {}, ...children) => element("section", { class: `card${wide ? " wide" : ""}`, id, "aria-label": title },
  element("div", { class: "head" }, element("h2", {}, title), note), ...children);

/** A link to another room, with the name of what is behind it. */
export const way = (href, text) => element("a", { href }, text);

export const LOADING = "Loading …";

export const deviceLink = (name) => element("a", { href: `/devices#${encodeURIComponent(name)}` }, name);

/** Show the list of a room, or the page of what is named behind #; `open` makes that page. */
export function showNamed(room, title, open) {
  const name = decodeURIComponent(location.hash.slice(1));
  room.list.hidden = Boolean(name);
  room.one.hidden = !name;
  room.title = name || title;
  if (room.opened?.name === name) return;
  room.opened?.close();
  room.opened = name ? open(name) : null;
  if (!name) room.poll.now();
}

export const ago = (now, ms) => (now - ms < 1000 ? "now" : `${duration(Math.round((now - ms) / 1000))} ago`);

/** A value as a device sent it, with its unit. */
export const reading = (value, unit) => `${typeof value === "number" ? measure(value) : String(value ?? "–")}${unit ? ` ${unit}` : ""}`;

export function courseOf({ state, waiting, empty_in_s: empty, full_in_s: full }) {
  const room = full === null ? "" : ` At this rate the room on disk lasts for ${duration(full)}.`;
  return {
    local: "Events stay on this machine: there is no cloud to send them to.",
    live: "The cloud keeps up.",
    outage: `The line is down and the buffer takes it all.${full === null ? " How long its room lasts can be said after a minute of outage in which it grows." : room}`,
    draining: `The backlog of ${count(waiting)} is gone in about ${empty === null ? "a while" : duration(empty)}.`,
    growing: `More comes in than goes out.${room}`,
  }[state];
}

const title = (name, all, listed) => (all > listed.length ? `${name}: ${count(all)}, of which ${listed.length} are shown` : `${name}: ${count(all)}`);

/** Tables of the devices that need a look; none where all is well. */
export function troubledDevices(devices, now) {
  const made = [];
  if (devices.silent_count) {
    made.push(table(title("Fell silent", devices.silent_count, devices.silent),
      [{ name: "device" }, { name: "last heard", number: true }, { name: "usually every", number: true }],
      devices.silent.map((each) => [deviceLink(each.name), ago(now, each.last_ms), duration(each.interval_ms / 1000)])));
  }
  if (devices.wrong_clock_count) {
    made.push(table(title("Clock is wrong", devices.wrong_clock_count, devices.wrong_clock),
      [{ name: "device" }, { name: "off by", number: true }, { name: "drift", number: true }, { name: "since", number: true }],
      devices.wrong_clock.map((each) => [each.name, signed(each.offset_ms / 1000), each.drift_ppm === null ? "" : ppm(each.drift_ppm), moment(each.wrong_since_ms)])));
  }
  if (devices.unreadable_count) {
    made.push(table(title("Cannot be read", devices.unreadable_count, devices.unreadable),
      [{ name: "device" }, { name: "payloads", number: true }, { name: "of", number: true }],
      devices.unreadable.map((each) => [deviceLink(each.name), count(each.undecoded), count(each.messages)])));
  }
  return made;
}

export const linksTable = (links) => table("MQTT connections",
  [{ name: "name" }, { name: "broker" }, { name: "state" }, { name: "failures", number: true }],
  links.map((link) => [link.name, address(link.peer), stateOf(link), count(link.failures)]));

/** Where it is too long for its place, the port stands below. */
function address(peer) {
  const port = peer.lastIndexOf(":") + 1;
  return element("span", {}, peer.slice(0, port), element("wbr"), peer.slice(port));
}

function stateOf(link) {
  if (!link.alive) return element("span", { class: "pill bad" }, "ended");
  if (link.connected) return element("span", { class: "pill ok" }, "connected");
  return element("span", {}, element("span", { class: "pill warn" }, "not connected"), element("br"), element("span", { class: "quiet" }, link.last_error || "trying"));
}
