// Elements, made from text only: nothing that a device sends is ever read as markup.

export const byId = (id) => document.getElementById(id);

export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(name, "");
    else if (value !== undefined && value !== false) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== undefined && child !== null));
  return made;
}

/** Replace what `node` shows, unless it shows that already: a screen reader is not told twice. */
export function show(node, key, make) {
  const text = JSON.stringify(key);
  if (node.shown === text) return;
  node.shown = text;
  const made = make();
  node.replaceChildren(...(Array.isArray(made) ? made : [made]));
}

const TURN_MS = 8;
const painted = () => new Promise((resolve) => { requestAnimationFrame(() => setTimeout(resolve)); });

/** Do `steps` one after another while `isWanted`; when they take long, the browser shows in between what there is. */
export async function inTurns(steps, isWanted) {
  let began = performance.now();
  for (const step of steps) {
    if (performance.now() - began > TURN_MS) {
      await painted();
      began = performance.now();
    }
    if (!isWanted()) return;
    step();
  }
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function table(caption, columns, rows) {
  const cell = (tag, text, at) =>
    element(tag, { class: columns[at].number ? "number" : undefined, scope: tag === "th" ? "col" : undefined, "data-label": tag === "td" ? columns[at].name : undefined }, text);
  return element("div", { class: "table", tabindex: "0", role: "region", "aria-label": caption },
    element("table", {},
      element("caption", {}, caption),
      element("thead", {}, element("tr", {}, ...columns.map((column, at) => cell("th", column.name, at)))),
      element("tbody", {}, ...rows.map((row) => element("tr", {}, ...row.map((text, at) => cell("td", text, at)))))));
}

export function facts(pairs, kind) {
  return element("dl", { class: kind },
    ...pairs.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]));
}
