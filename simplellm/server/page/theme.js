/** Light or dark: as the system has it, or as the reader chose. */

import { byId } from "./dom.js";

const KEPT = "simplellm.theme";
const NEXT = { system: "light", light: "dark", dark: "system" };
const LABELS = { system: "Theme: system", light: "Theme: light", dark: "Theme: dark" };
const SIGNS = { system: "◐", light: "☀", dark: "☾" };

export function startTheme() {
  const button = byId("theme");
  const apply = (theme) => {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = SIGNS[theme];
    button.setAttribute("aria-label", LABELS[theme]);
    button.title = LABELS[theme];
  };
  let theme = localStorage.getItem(KEPT) ?? "system";
  if (!(theme in NEXT)) theme = "system";
  apply(theme);
  button.addEventListener("click", () => {
    theme = NEXT[theme];
    localStorage.setItem(KEPT, theme);
    apply(theme);
  });
}
