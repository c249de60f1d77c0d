/** A tool call as it is read: what was asked, and what came back. */
import { type ComponentChildren, h } from "preact";

interface Props {
  name: string;
  id: string;
  /** JSON, as text or as it was read. */
  args: unknown;
  result?: string | undefined;
  children?: ComponentChildren;
}

export const CallView = ({ name, id, args, result, children }: Props) =>
  h(
    "section",
    { class: "call", "aria-label": `Call of ${name}` },
    h("header", null, h("strong", null, name), h("span", { class: "faint" }, id)),
    h("pre", { tabIndex: 0 }, pretty(args)),
    result !== undefined && [h("h4", null, "Result"), h("pre", { tabIndex: 0 }, pretty(result))],
    children,
  );

/** JSON with what fits on a line on one; other text as it is. */
function pretty(value: unknown): string {
  try {
    const json = JSON.stringify(typeof value === "string" ? JSON.parse(value) : value, null, 2);
    const flat = json.replace(/\n\s*/g, " ");
    return flat.length < 60 ? flat : json;
  } catch {
    return String(value);
  }
}
