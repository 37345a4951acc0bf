// What further parts of the gateway tell about themselves: backpressure, the clock, and any others.

import { element, facts, table } from "./dom.js";
import { bytes, count, duration, moment, ppm, rate, share, signed, title, words } from "./format.js";

/** One card each. */
export function sectionCards(sections) {
  return Object.entries(sections).map(([name, told]) => drawn({ name: title(words(name)), ...(CARDS[name] ?? anyCard)(told) }));
}

function drawn({ name, pill, lead, pairs, sources }) {
  return element("section", { class: "card", "aria-label": name },
    element("div", { class: "head" }, element("h2", {}, name), pill && element("span", { class: `pill ${pill[0]}` }, pill[1])),
    lead && element("p", { class: "lead" }, lead),
    facts(pairs),
    sources?.length ? table("Sources of time", SOURCES, sources) : null);
}

const CARDS = { backpressure: backpressureCard, clock: clockCard, subscriptions: subscriptionsCard };

const PRESSURE = {
  NONE: [["ok", "none"], () => "All messages are taken in without delay."],
  SLOW_DOWN: [["warn", "slow down"], ({ delay_ms: delay }) => `Devices are asked to wait ${duration(delay / 1000)}, and acknowledgements take longer.`],
  REJECT_LOW_PRIORITY: [["bad", "reject"], ({ priority_threshold: priority }) => `Messages of priority ${priority} and below are turned away.`],
};
const LOADS = [
  ["cpu", "processor", share],
  ["memory", "memory, of its budget", share],
  ["buffer", "buffer", share],
  ["queue", "waiting for their commit", share],
  ["window", "unacknowledged, of what the broker may send", share],
  ["intake", "had to wait until they were read", share],
  ["commit_s", "commit", duration],
];

function backpressureCard(told) {
  const [pill, say] = PRESSURE[told.action];
  const names = Object.fromEntries([...LOADS, ["commit", "the disk"]]);
  const why = told.reasons.map((reason) => (names[reason] ?? words(reason)).split(",")[0]).join(", ");
  const kept = told.sample_rate < 1 ? ` Routes that allow it keep ${share(told.sample_rate)} of their messages.` : "";
  return {
    pill,
    lead: say(told) + kept + (why && told.action !== "NONE" ? ` Too much: ${why}.` : ""),
    pairs: LOADS.map(([key, text, read]) => [text, read(told.load[key])]),
  };
}

const CLOCK = {
  synchronised: [["ok", "synchronised"], ({ source }) => `It follows ${source}.`],
  disputed: [["bad", "disputed"], ({ source }) => `The sources of time contradict each other; ${source} is followed, uncertainly.`],
  holdover: [["warn", "hold-over"], () => "No source answers now; the clock continues at the rate it has learnt."],
  free: [["", "system clock"], ({ sources }) => sources.length > 1 ? "No source has answered yet; the system clock is taken as it is." : "The system clock is taken as it is: no source of time is configured."],
  unset: [["bad", "unset"], () => "The time is not known: the system clock cannot be right, and no source has answered."],
};
const SOURCES = [{ name: "source" }, { name: "ahead by", number: true }, { name: "±", number: true }, { name: "state" }];

function clockCard(told) {
  const [pill, say] = CLOCK[told.state];
  const pairs = [
    ["uncertainty", told.uncertainty_s, (s) => `± ${duration(s)}`],
    ["drift of the machine's quartz", told.state === "free" ? null : told.drift_ppm, ppm],
    ["ahead of the system clock", Math.abs(told.system_offset_s) < 0.001 ? null : told.system_offset_s, signed],
    ["steps", told.steps || null, count],
    ...Object.entries(told.jumps).map(([kind, number]) => [`system clock: ${words(kind)}`, number || null, count]),
    ["events that wait for the time", told.held_events || null, count],
  ];
  return {
    pill,
    lead: say(told),
    pairs: pairs.filter(([, value]) => value !== null).map(([name, value, read]) => [name, read(value)]),
    sources: told.sources.map((each) => [each.name, reading(each.offset_s, signed), reading(each.uncertainty_s, duration), each.problem || each.role]),
  };
}

const reading = (value, read) => (value === null || value === undefined ? "" : read(value));

/** Any names, any plain values. */
function subscriptionsCard(told) {
  return {
    pill: told.refused ? ["bad", "refused"] : null,
    lead: told.refused ? `The local broker refuses: ${told.refused}.` : "Topics that the gateway subscribes to at the local broker.",
    pairs: [
      ["subscribed to", told.subscribed_to],
      ["without a gap since", told.since_ms === null ? "not yet" : moment(told.since_ms)],
      ["further copies of a message, left out", count(told.copies)],
      ["messages for no route, left out", count(told.unwanted)],
    ],
  };
}

function anyCard(told) {
  return { pairs: Object.entries(told).flatMap(([name, value]) => pairsOf(name, value)) };
}

function pairsOf(name, value) {
  if (value === null) return [];
  if (typeof value === "object") return Object.entries(value).flatMap(([part, inner]) => pairsOf(`${name}_${part}`, inner));
  if (typeof value === "boolean") return [[words(name), value ? "yes" : "no"]];
  return [typeof value === "number" ? withUnit(name, value) : [words(name), value]];
}

const UNITS = [
  ["_bytes", bytes],
  ["_per_s", (value) => `${rate(value)} /s`],
  ["_ppm", ppm],
  ["_share", share],
  ["_ms", (value) => (value > 1e11 ? moment(value) : span(value / 1000))],
  ["_s", (value) => span(value)],
];
const span = (seconds) => (seconds < 0 ? signed(seconds) : duration(seconds));

/** A value with the unit that its name ends with. */
function withUnit(name, value) {
  const [ending, read] = UNITS.find(([each]) => name.endsWith(each)) ?? ["", Number.isInteger(value) ? count : (number) => String(+number.toPrecision(4))];
  return [words(name.slice(0, name.length - ending.length)), read(value)];
}
