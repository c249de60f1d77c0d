/** The curves of all runs that are shown, section by section, and what happened beneath them. */
import { h } from "preact";
import { Chart } from "./chart.ts";
import { type Section, sectionsOf } from "./curated.ts";
import { extent, type Shown } from "./line.ts";
import { Events } from "./run-events.ts";
import { change, type Range, selected, shortNames, state, tauOf } from "./run-state.ts";

/** The same list while the same runs are shown: charts compare it. */
let before: Shown[] = [];
function shownRuns(): Shown[] {
  const names = shortNames(selected());
  const now = state.slots.flatMap((id, colour): Shown[] =>
    id === undefined ? [] : [{ run: state.data.get(id)!, name: names.get(id)!, colour }],
  );
  const same = ({ run, name, colour }: Shown, i: number) =>
    run === before[i]!.run && name === before[i]!.name && colour === before[i]!.colour;
  if (now.length !== before.length || !now.every(same)) before = now;
  return before;
}

/** Charts whose title, or a line of them, has the words. */
function find(sections: readonly Section[], words: string): Section[] {
  const has = (text: string) => text.toLowerCase().includes(words);
  return sections
    .map(({ title, charts }) => ({
      title,
      charts: charts.filter(({ title, lines }) => has(title) || lines.some(({ key, label }) => has(key) || has(label))),
    }))
    .filter(({ charts }) => charts.length);
}

export function Curves() {
  const { axis, window, smoothing, theme, slots } = state;
  const shown = shownRuns();
  const runs = shown.map(({ run }) => run);
  const kinds = new Set(state.runs.filter(({ id }) => slots.includes(id)).map(({ kind }) => kind));
  const taus = new Set(selected().map(tauOf));
  const wanted = state.filter.trim().toLowerCase();
  const sections = find(sectionsOf(runs, kinds, taus.size === 1 ? [...taus][0] : undefined), wanted);
  const version = `${runs.map((run) => run.version).join()} ${theme} ${[...taus].join()}`;
  const onWindow = (window: Range | undefined) => {
    const all = extent(shown, axis);
    change({ window: window && window.from <= all.from && window.to >= all.to ? undefined : window });
  };
  return [
    !sections.length && h("p", { class: "empty faint" }, wanted ? "No metric of that name." : "No rows yet."),
    ...sections.map(({ title, charts }) =>
      h(
        "section",
        { key: title, class: "charts", "aria-label": title },
        h("h2", null, title),
        h(
          "div",
          { class: "grid" },
          charts.map((spec) =>
            h(Chart, {
              key: `${spec.title} ${spec.log ?? ""}`,
              ...{ spec, runs: shown, axis, window, smoothing, version, onWindow },
            }),
          ),
        ),
      ),
    ),
    h(Events, { key: "events", shown }),
  ];
}
