/** The runs there are, to choose those that are seen. */
import { h } from "preact";
import { whole } from "./figures.ts";
import { change, MOST, type Summary, selected, shortNames, state, toggle } from "./run-state.ts";

const kinds = { pretrain: "pre-training", sft: "SFT", rl: "RL", run: "run" };

export function RunList() {
  const names = shortNames(state.runs.map(({ id }) => id));
  const chosen = selected().length;
  const found = wantedOf(state.runs);
  return h(
    "details",
    { class: "runs", open: matchMedia("(width >= 56rem)").matches || undefined },
    h("summary", null, chosen ? `Runs · ${chosen} of ${state.runs.length} shown` : "Runs"),
    state.runs.length > MOST &&
      h("input", {
        ...{ type: "search", placeholder: "Find a run", "aria-label": "Find a run", value: state.wanted },
        onInput: ({ target }: Event) => change({ wanted: (target as HTMLInputElement).value }),
      }),
    !found.length && state.runs.length > 0 && h("p", { class: "faint", role: "status" }, "No run is called that."),
    h(
      "ul",
      null,
      found.map((run) => h(Row, { key: run.id, run, name: names.get(run.id)!, full: chosen >= MOST })),
    ),
  );
}

/** Those that have every word; those shown stay, to be taken out. */
function wantedOf(runs: readonly Summary[]): Summary[] {
  const words = state.wanted.toLowerCase().split(/\s+/);
  const shown = new Set(selected());
  return runs.filter(({ id, kind }) => {
    const told = `${id} ${kinds[kind]}`.toLowerCase();
    return shown.has(id) || words.every((word) => told.includes(word));
  });
}

function Row({ run: { id, kind, steps, step, live }, name, full }: { run: Summary; name: string; full: boolean }) {
  const colour = state.slots.indexOf(id);
  return h(
    "li",
    null,
    h(
      "label",
      null,
      h("input", {
        ...{ type: "checkbox", checked: colour >= 0, onChange: () => toggle(id) },
        ...{ disabled: colour < 0 && full, class: colour >= 0 ? `run-${colour}` : "" },
      }),
      h(
        "span",
        null,
        h("span", { class: "name", title: id }, name),
        h(
          "small",
          { class: "faint" },
          `${kinds[kind]} · step ${whole(step)}${steps ? ` of ${whole(steps)}` : ""}`,
          live && h("span", { class: "on" }, " · running"),
        ),
      ),
    ),
  );
}
