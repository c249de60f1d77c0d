/** The runs there are, to choose those that are seen. */
import { h } from "preact";
import { whole } from "./figures.ts";
import { MOST, type Summary, selected, shortNames, state, toggle } from "./run-state.ts";

const kinds = { pretrain: "pre-training", sft: "SFT", rl: "RL", run: "run" };

export function RunList() {
  const names = shortNames(state.runs.map(({ id }) => id));
  const chosen = selected().length;
  return h(
    "details",
    { class: "runs", open: matchMedia("(width >= 56rem)").matches || undefined },
    h("summary", null, chosen ? `Runs · ${chosen} of ${state.runs.length} shown` : "Runs"),
    h(
      "ul",
      null,
      state.runs.map((run) => h(Row, { key: run.id, run, name: names.get(run.id)!, full: chosen >= MOST })),
    ),
  );
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
