// An alert in a list.

import { element } from "./dom.js";
import { measured, moment, words } from "./format.js";

export function alertItem(alert) {
  const at = alert.time_ms ?? alert.end_ms ?? alert.start_ms;
  const name = alert.alert ?? alert.result?.alert ?? "alert";
  const where = [alert.window, alert.key].filter(Boolean).join(" / ");
  const message = alert.message ?? alert.result?.message ?? measured(alert.result, ["alert"]);
  return element("li", {}, element("b", {}, words(String(name))), " ", element("span", { class: "quiet" }, [where, at ? moment(at) : ""].filter(Boolean).join(", ")), element("br"), String(message));
}
