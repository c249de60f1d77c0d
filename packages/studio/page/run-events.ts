/** What happened in the runs: evaluations, checkpoints, what the guard did. */
import { h } from "preact";
import { whole } from "./figures.ts";
import type { Shown } from "./line.ts";
import { Table } from "./table.ts";

/** Most that are shown, the last ones. */
const MOST = 200;
const wrong = new Set(["skip", "rollback", "lock-in", "mismatch"]);

export function Events({ shown }: { shown: readonly Shown[] }) {
  const rows = shown.flatMap(({ run, name }) => run.events.map((event) => ({ name, event })));
  if (!rows.length) return null;
  const many = shown.length > 1;
  return h(
    "section",
    { class: "events", "aria-label": "Events" },
    h("h2", null, "Events"),
    h(
      Table,
      { head: [...(many ? ["Run"] : []), "Step", "Event", "What"] },
      rows
        .slice(-MOST)
        .toReversed()
        .map(({ name, event: { event, step, time, ...rest } }) =>
          h(
            "tr",
            { class: wrong.has(event) ? "lost" : "" },
            many && h("td", null, name),
            h("td", { class: "number" }, whole(step)),
            h("td", null, event),
            h("td", { class: "faint" }, sayAll(rest)),
          ),
        ),
    ),
  );
}

const sayAll = (rest: Record<string, unknown>): string =>
  Object.entries(rest)
    .map(([key, value]) => (typeof value === "object" ? say(value) : `${key} ${say(value)}`))
    .join(" · ");

function say(value: unknown): string {
  if (Array.isArray(value)) return `${value.slice(0, 3).join(", ")}${value.length > 3 ? ", …" : ""}`;
  if (typeof value === "object" && value !== null) return Object.values(value).map(say).join(", ");
  if (typeof value === "number" && value !== 0 && Math.abs(value) < 0.001) return value.toExponential(1);
  return String(value);
}
