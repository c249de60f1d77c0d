/** What a run's experts and heads do, layer by layer. */
import { h } from "preact";
import { expertMaps, Heat, logitMaps, type Map2d } from "./heat.ts";
import { change, state, tauOf } from "./run-state.ts";

interface Part {
  title: string;
  /** What the colours mean, from the least to the most. */
  scale: string[];
  note: string;
  maps: Map2d[];
}

export function Experts() {
  const run = state.data.get(state.focus);
  if (!run) return null;
  const tau = tauOf(state.focus);
  const [experts, heads] = [expertMaps(run), logitMaps(run, tau)];
  if (!experts.length && !heads.length)
    return h(
      "p",
      { class: "empty faint" },
      "No rows with every expert's load and every head's logit yet (logging.detailEvery).",
    );
  const version = `${run.id} ${run.details.length} ${run.details.at(-1)?.step} ${state.theme} ${tau}`;
  return [
    part(version, {
      title: "Load of the experts",
      scale: ["idle (¼ of the mean)", "even", "overloaded (4 ×)"],
      note: "A row is an expert, a column a step.",
      maps: experts,
    }),
    part(version, {
      title: "Largest attention logit of each head",
      scale: tau === undefined ? ["0", "half", "the largest"] : ["0", `${tau / 2}`, `${tau}, where QK-Clip acts`],
      note: tau === undefined ? "" : "A dot: this head was clipped at this step.",
      maps: heads,
    }),
  ];
}

function part(version: string, { title, scale, note, maps }: Part) {
  if (!maps.length) return null;
  return h(
    "section",
    { class: "charts", "aria-label": title },
    h("h2", null, title),
    h(
      "p",
      { class: `faint scale${maps[0]!.diverging ? " diverging" : ""}` },
      scale.map((text, i) => h("span", null, h("span", { class: `shade s${i}`, "aria-hidden": true }), text)),
      note && h("span", null, note),
    ),
    h(
      "div",
      { class: "grid" },
      maps.slice(0, state.layers).map((map) => h(Heat, { key: map.title, map, version })),
    ),
    maps.length > state.layers &&
      h("button", { type: "button", onClick: () => change({ layers: maps.length }) }, `All ${maps.length} layers`),
  );
}
