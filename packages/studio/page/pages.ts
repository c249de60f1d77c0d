/** The two pages, by name. */
import { h } from "preact";

const pages = { "/": "Chat", "/runs": "Runs" } as const;
type Path = keyof typeof pages;

export const Pages = ({ here, others = true }: { here: Path; others?: boolean }) =>
  h(
    "nav",
    { "aria-label": "Pages" },
    (Object.keys(pages) as Path[])
      .filter((path) => others || path === here)
      .map((path) => h("a", { key: path, href: path, ...(path === here && { "aria-current": "page" }) }, pages[path])),
  );
