// The alarms and alerts, newest first.

import { alertItem } from "./alerts.js";
import { element, show } from "./dom.js";
import { Poll } from "./live.js";
import { card } from "./parts.js";

const EVERY_MS = 2000;

export class Alarms {
  title = "Alarms";

  constructor(place, page) {
    this.page = page;
    this.list = element("div", { "aria-live": "polite" });
    place.append(card("Alerts", { id: "alerts", wide: true, note: element("p", { class: "quiet" }, "newest first") }, this.list));
    this.poll = new Poll(EVERY_MS, () => this.load());
  }

  async load() {
    const alerts = await this.page.ask("/api/alerts");
    show(this.list, alerts, () => (alerts.length
      ? element("ul", { class: "plain tall", "aria-label": "The last alerts" }, ...alerts.map(alertItem))
      : element("p", { class: "quiet" }, "No alerts. Windows with the plugin threshold raise alerts, and so does the gateway when something is lost or damaged.")));
  }

  close() {
    this.poll.close();
  }
}
