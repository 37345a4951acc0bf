// Light or dark: as the system has it, until the user chooses.

const button = document.getElementById("theme");
const wish = matchMedia("(prefers-color-scheme: dark)");
const chosen = () => localStorage.getItem("theme");

function useTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  button?.setAttribute("aria-pressed", String(dark));
  dispatchEvent(new Event("themechange"));
}

useTheme(chosen() ? chosen() === "dark" : wish.matches);
wish.addEventListener("change", () => { if (!chosen()) useTheme(wish.matches); });
button?.addEventListener("click", () => {
  const dark = document.documentElement.dataset.theme !== "dark";
  localStorage.setItem("theme", dark ? "dark" : "light");
  useTheme(dark);
});
