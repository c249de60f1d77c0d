/** Light and dark: as the system has it, or as a person wants it. */
import { h } from "preact";

/** "" is the system's. */
export type Theme = "" | "light" | "dark";

export const systemDark = matchMedia("(prefers-color-scheme: dark)");

export function showTheme(theme: Theme): void {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

export function ThemeButton({ theme, onTheme }: { theme: Theme; onTheme(theme: Theme): void }) {
  const dark = theme === "dark" || (!theme && systemDark.matches);
  const label = dark ? "Light colours" : "Dark colours";
  return h(
    "button",
    {
      ...{ type: "button", class: "icon", "aria-label": label, title: label },
      onClick: () => onTheme(dark ? "light" : "dark"),
    },
    dark ? "☀" : "☾",
  );
}
