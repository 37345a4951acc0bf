// The configuration: what is in use with secrets hidden, what a reload would change, plugins, warnings of `check`.

import { element, setText, show, table } from "./dom.js";
import { count, plural } from "./format.js";
import { LOADING, card } from "./parts.js";

const ORIGINS = { file: "from the file", last_good: "the last good one, because the file cannot be used", signed: "a signed one that came over the cloud broker" };

export class Configuration {
  title = "Configuration";

  constructor(place, page) {
    Object.assign(this, { page, lines: [] });
    this.about = element("div", {}, LOADING);
    this.warnings = element("div");
    this.reload = element("div", { "aria-live": "polite" });
    this.plugins = element("div");
    this.values = element("div");
    this.found = element("p", { class: "quiet", role: "status" });
    this.search = element("input", { type: "search", autocomplete: "off", placeholder: "part of a key or value" });
    this.given = element("input", { type: "checkbox", checked: true });
    for (const field of [this.search, this.given]) field.addEventListener("input", () => this.choose());
    const again = element("button", { type: "button" }, "Look again");
    again.addEventListener("click", () => this.load());
    const choice = element("form", { class: "tools", role: "search" }, element("label", {}, "Find ", this.search), element("label", {}, this.given, " only what the file says"), this.found);
    choice.addEventListener("submit", (event) => event.preventDefault());
    place.append(
      card("In use", { id: "in-use" }, this.about),
      card("Warnings", { id: "warnings", note: element("p", { class: "quiet" }, "as gateway check gives them") }, this.warnings),
      card("What a reload would change", { id: "reload", wide: true, note: again }, this.reload),
      card("Values", { id: "values", wide: true }, choice, this.values),
      card("Plugins", { id: "plugins", wide: true }, this.plugins));
    this.load();
  }

  async load() {
    try {
      const told = await this.page.ask("/api/configuration");
      show(this.about, told, () => aboutOf(told));
      show(this.warnings, told.warnings, () => (told.warnings.length
        ? element("ul", { class: "plain" }, ...told.warnings.map((text) => element("li", {}, text)))
        : element("p", { class: "quiet" }, "None.")));
      show(this.reload, told.reload, () => reloadOf(told.reload));
      show(this.plugins, told.plugins, () => pluginsOf(told.plugins));
      this.lines = told.values;
      this.choose();
    } catch (problem) {
      setText(this.about, problem.message);
    }
  }

  choose() {
    const part = this.search.value.toLowerCase();
    const shown = this.lines.filter(({ path, value, given }) => (given || !this.given.checked) && `${path} ${value}`.toLowerCase().includes(part));
    setText(this.found, `${count(shown.length)} of ${plural(this.lines.length, "value")}`);
    show(this.values, shown, () => tall("Values of the configuration", [{ name: "key" }, { name: "value" }], shown.map(({ path, value, given }) => [element("code", {}, path), element("span", { class: given ? undefined : "quiet" }, value || "(empty)")])));
  }
}

const tall = (name, columns, rows) => {
  const made = table(name, columns, rows);
  made.classList.add("tall");
  return made;
};

function aboutOf({ version, python, file, origin }) {
  return [
    element("p", { class: "lead" }, `The configuration is ${ORIGINS[origin.source] ?? origin.source}.`),
    element("dl", {}, ...[["file", file ?? "none"], ["its hash", origin.hash], ["its version", origin.version], ["why not the file", origin.problem], ["the last remote one", origin.outcome], ["gateway", version], ["Python", python]]
      .filter(([, value]) => value).flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)])),
  ];
}

function reloadOf(reload) {
  const list = (texts) => element("ul", { class: "plain tall" }, ...texts.map((text) => element("li", {}, text)));
  if (reload.state === "same") return element("p", {}, "Nothing: the file says what is in use. Plugins and the files that it names would be read again.");
  if (reload.state === "unknown") return element("p", {}, reload.problems.join("; "));
  if (reload.state === "refused") {
    return [element("p", { class: "bad" }, "Nothing: the file cannot be used, so what runs would go on."), list(reload.problems)];
  }
  return [
    element("p", {}, reload.signed_stays ? "The file has changed, but the signed configuration stays on top of it." : "kill -HUP takes these changes up; windows that do not change keep their state."),
    tall("Changes", [{ name: "key" }, { name: "now" }, { name: "after" }], reload.values.map(({ path, before, after }) => [element("code", {}, path), before ?? "–", after ?? "–"])),
    reload.values.length ? null : list(reload.keys.map((key) => `${key} (its value is hidden)`)),
    reload.warnings.length ? list(reload.warnings) : null,
  ].filter(Boolean);
}

function pluginsOf(plugins) {
  if (!plugins.length) return element("p", { class: "quiet" }, "No window runs a plugin.");
  return tall("Plugins and their versions", [{ name: "plugin" }, { name: "for" }, { name: "version" }, { name: "from" }, { name: "state" }],
    plugins.map((each) => [each.name, each.used_by ? `window ${each.used_by}` : each.kind, each.code ? element("code", {}, each.code) : "", each.origin, each.state]));
}
