// Light or dark: as the system has it, until the user chooses.

import { redrawAll } from "./charts.js";
import { byId } from "./dom.js";

function useTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  byId("theme").setAttribute("aria-pressed", String(dark));
  redrawAll();
}

const wish = matchMedia("(prefers-color-scheme: dark)");
const chosen = () => localStorage.getItem("theme");
useTheme(chosen() ? chosen() === "dark" : wish.matches);
wish.addEventListener("change", () => { if (!chosen()) useTheme(wish.matches); });
byId("theme").addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme !== "dark";
  localStorage.setItem("theme", dark ? "dark" : "light");
  useTheme(dark);
});
