// The page: keeps its numbers up to date, and shows the room of its address.

import { Alarms } from "./alarms.js";
import { Buffer } from "./buffer.js";
import { Configuration } from "./configuration.js";
import { Devices } from "./devices.js";
import { byId, setText } from "./dom.js";
import { duration, time } from "./format.js";
import { Live, ask } from "./live.js";
import { Messages } from "./messages.js";
import { showNotices, statusOf } from "./notices.js";
import { Overview } from "./overview.js";
import "./theme.js";
import { Windows } from "./windows.js";

const ROOMS = {
  "/": Overview, "/devices": Devices, "/windows": Windows, "/alarms": Alarms,
  "/buffer": Buffer, "/messages": Messages, "/configuration": Configuration,
};

let path = null;
let room = null;

const live = new Live({
  onState(state) {
    document.documentElement.classList.remove("stale");
    showHead(state);
    showNotices(state, null);
    room?.show?.(state);
  },
  onLost(state) {
    document.documentElement.classList.add("stale");
    setText(byId("status"), "no answer");
    byId("status").className = "pill bad";
    showNotices(state, state?.time_ms ?? Date.now());
  },
});

const page = { live, ask, go, get state() { return live.state; } };

function showHead(state) {
  const [kind, text] = statusOf(state);
  setText(byId("id"), state.gateway.id);
  setText(byId("status"), text);
  byId("status").className = `pill ${kind}`;
  const up = Math.max(state.time_ms - state.gateway.started_ms, 0) / 1000;
  setText(byId("about"), `version ${state.gateway.version}, up ${duration(Math.floor(up))}`);
  setText(byId("updated"), `updated ${time(state.time_ms)}`);
  showTitle();
}

function showTitle() {
  const state = live.state;
  const mark = state && statusOf(state)[0] !== "ok" ? "! " : "";
  const title = `${mark}${room.title} · ${state?.gateway.id ?? "gateway"}`;
  if (document.title !== title) document.title = title;
}

/** Show the room of the address; one that is open already finds its way by itself. */
function enter(focus) {
  const wanted = location.pathname in ROOMS ? location.pathname : "/";
  if (wanted === path) room.moved?.();
  else {
    room?.close?.();
    path = wanted;
    byId("room").replaceChildren();
    room = new ROOMS[wanted](byId("room"), page);
    for (const link of byId("rooms").children) link.toggleAttribute("aria-current", link.pathname === wanted);
    const current = byId("rooms").querySelector("[aria-current]");
    current.setAttribute("aria-current", "page");
    byId("rooms").scrollLeft = current.offsetLeft - byId("rooms").offsetLeft - 60; // where the rooms do not fit
    if (live.state) room.show?.(live.state);
    scrollTo(0, 0);
    if (focus) byId("main").focus({ preventScroll: true });
  }
  showTitle();
}

function go(address) {
  history.pushState(null, "", address);
  enter(true);
}

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href]");
  const isPlain = event.button === 0 && !(event.metaKey || event.ctrlKey || event.shiftKey || event.altKey);
  if (!link || !isPlain || link.target || link.hasAttribute("download") || link.origin !== location.origin) return;
  if (!(link.pathname in ROOMS) || link.getAttribute("href") === "#main") return;
  event.preventDefault();
  if (link.href !== location.href) go(link.href);
});
addEventListener("popstate", () => enter(false));

enter(false);
live.open();
