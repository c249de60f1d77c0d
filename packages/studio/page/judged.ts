/** How an episode was judged: what was checked, what changed in the world, and the reward by component. */
import { h } from "preact";
import type { Episode } from "./episode.ts";
import { figure } from "./figures.ts";
import { Table } from "./table.ts";

const names: Record<string, string> = {
  require: "the world is as was asked",
  evidence: "the evidence was looked at",
  speech: "the answer is of the right kind",
  tell: "what was asked for is told",
};

export function Judged({ reward, verification }: Pick<Episode, "reward" | "verification">) {
  if (!reward && !verification) return null;
  return h(
    "section",
    { class: "verdict", "aria-label": "Verdict" },
    h("h4", null, "Verdict"),
    reward?.why !== undefined && h("p", { class: "lost" }, reward.why),
    verification && [h(Checks, verification), h(Changes, verification)],
    reward && h(Components, reward),
  );
}

type Verification = NonNullable<Episode["verification"]>;

/** Null: not asked. */
const signs = (ok: boolean | null) =>
  ok === null
    ? { class: "faint", sign: "–", said: ": not asked" }
    : ok
      ? { class: "won", sign: "✓", said: ": yes" }
      : { class: "lost", sign: "✗", said: ": no" };

function Checks({ goals, told, unchanged, allowed }: Verification) {
  const checks: Record<string, boolean | null> = {
    ...Object.fromEntries(Object.entries({ ...goals, ...told }).map(([name, ok]) => [names[name] ?? name, ok])),
    "nothing else was changed": unchanged,
    "no rule was broken": allowed,
  };
  return h(
    "ul",
    { class: "checks" },
    Object.entries(checks).map(([name, ok]) => {
      const { sign, said, ...look } = signs(ok);
      return h(
        "li",
        look,
        h("span", { "aria-hidden": true }, sign),
        h("span", null, name, h("span", { class: "unseen" }, said)),
      );
    }),
  );
}

function Changes({ diff }: Verification) {
  if (!diff.length) return h("p", { class: "faint none" }, "Nothing changed in the world.");
  return h(
    Table,
    { caption: "What changed in the world" },
    diff.map(({ path, before, after }) =>
      h(
        "tr",
        null,
        h("th", { scope: "row" }, path),
        h("td", null, show(before)),
        h("td", null, "→"),
        h("td", null, show(after)),
      ),
    ),
  );
}

const show = (value: unknown): string =>
  value === undefined || value === null ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value);

function Components({ components }: NonNullable<Episode["reward"]>) {
  const parts = Object.entries(components);
  if (!parts.length) return null;
  return h(
    Table,
    { caption: "Reward by component" },
    parts.map(([name, { value, weight, kind }]) =>
      h(
        "tr",
        null,
        h("th", { scope: "row" }, name),
        h("td", null, figure(value)),
        h("td", { class: "faint" }, weight === 1 ? kind : `× ${figure(weight)} ${kind}`),
      ),
    ),
  );
}
