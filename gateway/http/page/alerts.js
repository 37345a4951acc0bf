// The list of alerts on the page.

import { byId, element, setText, show } from "./dom.js";
import { measured, moment, words } from "./format.js";

/** The list of alerts, newest first. */
export function showAlerts(alerts) {
  setText(byId("alerts-count"), alerts.length ? "newest first" : "");
  show(byId("alerts-body"), alerts, () => {
    if (!alerts.length) return element("p", { class: "quiet" }, "No alerts. Windows with the plugin threshold raise alerts, and so does the gateway when something is lost or damaged.");
    return element("ul", { class: "plain", tabindex: "0", "aria-label": "The last alerts" }, ...alerts.map((alert) => {
      const at = alert.time_ms ?? alert.end_ms ?? alert.start_ms;
      const name = alert.alert ?? alert.result?.alert ?? "alert";
      const where = [alert.window, alert.key].filter(Boolean).join(" / ");
      const message = alert.message ?? alert.result?.message ?? measured(alert.result, ["alert"]);
      return element("li", {}, element("b", {}, words(String(name))), " ", element("span", { class: "quiet" }, [where, at ? moment(at) : ""].filter(Boolean).join(", ")), element("br"), String(message));
    }));
  });
}
