/** The light and the dark theme: the system's, until the user switches. */

const KEPT = "lowerbound-theme";

/** Make the button switch. */
export function themeSwitch(button) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const now = () => localStorage.getItem(KEPT) ?? (system.matches ? "dark" : "light");

  function apply() {
    document.documentElement.dataset.theme = now();
    button.setAttribute("aria-pressed", String(now() === "dark"));
  }

  button.addEventListener("click", () => {
    localStorage.setItem(KEPT, now() === "dark" ? "light" : "dark");
    apply();
  });
  system.addEventListener("change", apply);
  apply();
}
