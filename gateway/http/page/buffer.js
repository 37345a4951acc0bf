// The buffer and the way to the cloud: what is stored, what waits, how full the disk budget is, and how things flow.

import { Chart } from "./charts.js";
import { element, facts, setText, show } from "./dom.js";
import { bytes, count, duration, share, words } from "./format.js";
import { card, courseOf, linksTable } from "./parts.js";
import { sectionCards } from "./sections.js";
import { withBreaks } from "./series.js";

const STATES = [
  ["pending", "waiting", "waiting"],
  ["syncing", "on their way", "syncing"],
  ["synced", "sent, kept for a while", "synced"],
  ["failed", "given up", "failed"],
  ["corrupt", "corrupt", "corrupt"],
  ["kept", "kept here, not to be sent", "kept"],
];

export class Buffer {
  title = "Buffer and cloud";

  constructor(place, page) {
    this.page = page;
    this.size = element("p", { class: "quiet" });
    this.forecast = element("p", { class: "lead", "aria-live": "polite" });
    this.fill = element("p", { class: "quiet" });
    this.bar = element("div", { class: "bar", "aria-hidden": "true" });
    this.states = element("div");
    this.waitingPlace = element("div", { class: "chart small" });
    this.flow = element("div");
    this.links = element("div");
    this.sections = element("div", { class: "wide cards sections" });
    place.append(
      element("div", { class: "column" },
        card("Buffer", { id: "buffer", note: this.size }, this.forecast, this.bar, this.fill, this.states),
        card("What came and went", { id: "flow" }, this.flow)),
      element("div", { class: "column" },
        card("Waiting", { note: element("p", { class: "quiet" }, "events, the last 15 minutes") }, this.waitingPlace),
        card("Connections", { id: "links" }, this.links)),
      this.sections);
  }

  show(state) {
    const { buffer } = state;
    const { used_bytes: used, max_bytes: max } = buffer;
    setText(this.size, `last commit ${duration(buffer.commit_s)}`);
    setText(this.forecast, courseOf(buffer.forecast));
    setText(this.fill, used === null ? "The disk does not tell how much is used." : `${bytes(used)} of ${bytes(max)} on disk are used: ${used / max < 0.005 ? "less than 1 %" : share(used / max)}.`);
    show(this.bar, [buffer.statuses, used, max], () => filled(buffer.statuses, Math.min((used ?? 0) / max, 1)));
    this.showStates(buffer);
    this.showFlow(buffer);
    const rows = withBreaks(this.page.live.rows);
    this.waiting ??= new Chart(this.waitingPlace, [{ label: "waiting", colour: "--warn", fill: true }], "Events that wait for the cloud, the last 15 minutes");
    this.waiting.set([rows.map((row) => row[0] / 1000), rows.map((row) => row[3])]);
    show(this.links, state.links, () => linksTable(state.links));
    show(this.sections, state.sections, () => sectionCards(state.sections));
  }

  showStates({ statuses, unconfirmed }) {
    const rows = STATES.filter(([name]) => statuses[name] || name === "pending" || name === "synced");
    const noted = (name, text) => (name === "synced" && unconfirmed ? `${text}; ${count(unconfirmed)} wait for a receiver` : text);
    show(this.states, [statuses, unconfirmed], () => facts(rows.map(([name, text, kind]) => [
      element("span", { class: "dot-label" }, element("i", { class: `dot ${kind}`, "aria-hidden": "true" }), ` ${noted(name, text)}`), count(statuses[name])]), "states"));
  }

  showFlow(buffer) {
    const pairs = [
      ...Object.entries(buffer.messages).map(([name, n]) => [`messages ${words(name)}`, n]),
      ...Object.entries(buffer.rejected).map(([name, n]) => [`turned away: ${words(name)}`, n]),
      ...Object.entries(buffer.appended).map(([name, n]) => [`stored: ${words(name)}`, n]),
      ...Object.entries(buffer.evicted).map(([name, n]) => [`evicted: ${words(name)}`, n]),
      ["payloads that cannot be read", buffer.undecoded], ["fields that were missing", buffer.field_misses],
    ].filter(([, n]) => n);
    show(this.flow, pairs, () => (pairs.length ? facts(pairs.map(([name, n]) => [name, count(n)])) : element("p", { class: "quiet" }, "Nothing yet.")));
  }

  close() {
    this.waiting?.destroy();
  }
}

/** The bar is as full as the disk budget is; its colours say of what. */
function filled(statuses, fill) {
  const total = Math.max(Object.values(statuses).reduce((sum, n) => sum + n, 0), 1);
  const svg = drawn("svg", { viewBox: "0 0 1000 10", preserveAspectRatio: "none" });
  let from = 0;
  for (const [name, , kind] of STATES) {
    const width = (statuses[name] / total) * fill * 1000;
    svg.append(drawn("rect", { x: from, width, height: 10, class: kind }));
    from += width;
  }
  return svg;
}

function drawn(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
