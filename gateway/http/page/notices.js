// How the gateway is, in a word, and what needs attention, in sentences.

import { byId, element, show } from "./dom.js";
import { bytes, count, moment, plural, sentence } from "./format.js";

const STATUS = { ok: ["ok", "all is well"], degraded: ["warn", "needs attention"], failing: ["bad", "failing"] };

/** What flow control does. Only a gateway that leaves something out is overloaded. */
const PRESSED = {
  slow: ["warn", "busy", "More arrives than the gateway takes at once: it asks devices to slow down. Nothing is lost. Buffer and cloud says why."],
  overload: ["bad", "overloaded", "The gateway is overloaded: it leaves messages out, as priorities and sampling allow. Buffer and cloud says why."],
  full: ["bad", "buffer nearly full", "The buffer is nearly full, so messages of low priority are turned away."],
};

function pressedBy(told) {
  if (!told || told.action === "NONE") return null;
  const { action, sample_rate: kept, reasons } = told;
  if (kept < 1) return PRESSED.overload;
  if (action === "SLOW_DOWN") return PRESSED.slow;
  return reasons.length === 1 && reasons[0] === "buffer" ? PRESSED.full : PRESSED.overload;
}

/** [kind, text] of the pill beside the name. */
export function statusOf(state) {
  const { status } = state.gateway;
  if (status !== "ok") return STATUS[status];
  const pressed = pressedBy(state.sections.backpressure);
  if (pressed) return pressed;
  return state.buffer.forecast.state === "outage" ? ["warn", "no cloud"] : STATUS.ok;
}

export function showNotices(state, lostSince) {
  const notices = state ? [...noticesOf(state)] : [];
  if (lostSince) notices.unshift(["bad", `The gateway does not answer; the numbers are from ${moment(lostSince)}. Trying again.`]);
  show(byId("notices"), notices, () => notices.map(([kind, text]) => element("p", { class: `notice ${kind}`, role: kind === "bad" ? "alert" : undefined }, text)));
}

function* noticesOf(state) {
  const { buffer } = state;
  for (const problem of state.gateway.problems) yield [state.gateway.status === "failing" ? "bad" : "warn", sentence(problem)];
  if (buffer.forecast.state === "outage") yield ["warn", `No connection to the cloud. ${plural(buffer.forecast.waiting, "event")} ${buffer.forecast.waiting === 1 ? "waits" : "wait"} on disk; nothing is lost, and windows go on.`];
  const pressed = pressedBy(state.sections.backpressure);
  if (pressed) yield [pressed[0], pressed[2]];
  const used = buffer.used_bytes / buffer.max_bytes;
  if (used > 0.8) yield ["bad", `The buffer has used ${Math.round(used * 100)} % of its ${bytes(buffer.max_bytes)}. Beyond 92 % it thins out what waits; see buffer.max_size.`];
  if (buffer.statuses.failed) yield ["warn", `${plural(buffer.statuses.failed, "event")} ${buffer.statuses.failed === 1 ? "was" : "were"} refused by the cloud for good. gateway buffer list --status failed shows them, gateway buffer retry sends them again.`];
  if (buffer.statuses.corrupt) yield ["bad", `${count(buffer.statuses.corrupt)} events have a wrong checksum and are not sent. Is the disk sound?`];
  const evicted = Object.entries(buffer.evicted).reduce((sum, [reason, n]) => sum + (reason === "synced" ? 0 : n), 0);
  if (evicted) yield ["warn", `${count(evicted)} events were evicted before the cloud had them; the alerts say which.`];
}
