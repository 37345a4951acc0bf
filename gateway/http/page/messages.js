// Messages as they come in, by topic filter: what was read out of each, its event time and why. One key stops them.

import { element, setText } from "./dom.js";
import { count, plural } from "./format.js";
import { messageItem } from "./message.js";

const KEPT = 200;
const AGAIN_MS = 2000;

export class Messages {
  title = "Messages";

  constructor(place, page) {
    Object.assign(this, { page, skipped: 0, isStopped: false, held: [] });
    this.filter = element("input", { id: "filter", type: "text", autocomplete: "off", spellcheck: "false", placeholder: "#", value: new URLSearchParams(location.search).get("filter") ?? "" });
    this.button = element("button", { type: "button", "aria-pressed": "false" }, "Stop");
    this.button.addEventListener("click", () => this.stop(!this.isStopped));
    this.said = element("p", { class: "quiet", role: "status" });
    this.list = element("ol", { class: "messages", "aria-label": "Messages, newest first" });
    this.empty = element("p", { class: "quiet" });
    const choice = element("form", { class: "tools" }, element("label", {}, "Topic filter ", this.filter), element("button", { type: "submit" }, "Show"), this.button,
      element("span", { class: "quiet" }, "Esc stops and goes on."), this.said);
    choice.addEventListener("submit", (event) => { event.preventDefault(); this.choose(); });
    place.append(element("section", { class: "card wide", "aria-label": "Messages" }, choice, this.empty, this.list));
    this.onKey = (event) => { if (event.key === "Escape") this.stop(!this.isStopped); };
    this.onSeen = () => (document.hidden ? this.source?.close() : this.open());
    addEventListener("keydown", this.onKey);
    document.addEventListener("visibilitychange", this.onSeen);
    this.open();
  }

  choose() {
    history.replaceState(null, "", this.filter.value ? `?filter=${encodeURIComponent(this.filter.value)}` : location.pathname);
    this.list.replaceChildren();
    Object.assign(this, { skipped: 0, held: [], lastId: 0 });
    this.open();
  }

  open() {
    clearTimeout(this.timer);
    this.source?.close();
    const query = new URLSearchParams({ filter: this.filter.value || "#", last: this.lastId ? 50 : 20 });
    this.source = new EventSource(`/api/messages?${query}`);
    this.source.addEventListener("messages", (event) => this.take(JSON.parse(event.data)));
    this.source.addEventListener("error", () => this.lose(query));
  }

  /** A stream that is refused does not say why: the same question once more does. */
  async lose(query) {
    this.source.close();
    try {
      await this.page.ask(`/api/messages?${query}&once=true`);
      setText(this.said, "Waiting for a place: too many look at messages, or the gateway has just restarted.");
    } catch (problem) {
      setText(this.said, problem.message);
      if (problem.message.startsWith("filter")) return;
    }
    this.timer = setTimeout(() => { if (!document.hidden) this.open(); }, AGAIN_MS);
  }

  take({ messages, skipped }) {
    const fresh = messages.filter((message) => message.id > (this.lastId ?? 0));
    if (fresh.length) this.lastId = fresh.at(-1).id;
    this.skipped += skipped;
    if (this.isStopped) this.held = [...this.held, ...fresh].slice(-KEPT);
    else this.add(fresh);
    this.tell();
  }

  add(messages) {
    this.list.prepend(...messages.slice(-KEPT).reverse().map((message) => messageItem(message, this.page.ask)));
    while (this.list.children.length > KEPT) this.list.lastChild.remove();
  }

  tell() {
    const parts = [this.isStopped ? `Stopped; ${plural(this.held.length, "message")} came since.` : "Live."];
    if (this.skipped) parts.push(`Up to ${count(this.skipped)} were skipped: at most 50 a second are shown.`);
    setText(this.said, parts.join(" "));
    setText(this.empty, this.list.children.length ? "" : "No message of this filter is among the last ones. It will appear here when it comes.");
    this.empty.hidden = this.list.children.length > 0;
  }

  stop(isStopped) {
    this.isStopped = isStopped;
    this.button.setAttribute("aria-pressed", String(isStopped));
    setText(this.button, isStopped ? "Go on" : "Stop");
    if (!isStopped) {
      this.add(this.held);
      this.held = [];
    }
    this.tell();
  }

  close() {
    clearTimeout(this.timer);
    this.source?.close();
    removeEventListener("keydown", this.onKey);
    document.removeEventListener("visibilitychange", this.onSeen);
  }
}
