/** Which view of the runs, and how. */
import { h } from "preact";
import type { XAxis } from "./run-data.ts";
import { change, changeView, selected, shortNames, state, type Tab, tabs } from "./run-state.ts";
import { labelled } from "./select.ts";

export function Toolbar() {
  const { tab } = state;
  const names = Object.keys(tabs) as Tab[];
  const onKey = (event: KeyboardEvent) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const next = names[(names.indexOf(tab) + by + names.length) % names.length]!;
    changeView({ tab: next });
    document.getElementById(`tab-${next}`)?.focus();
  };
  return h(
    "div",
    { class: "toolbar" },
    h(
      "div",
      { role: "tablist", "aria-label": "Views", onKeyDown: onKey },
      names.map((name) =>
        h(
          "button",
          {
            ...{ type: "button", role: "tab", id: `tab-${name}`, "aria-selected": tab === name },
            ...{ "aria-controls": "panel", tabIndex: tab === name ? 0 : -1, onClick: () => changeView({ tab: name }) },
          },
          tabs[name],
        ),
      ),
    ),
    tab === "curves" ? h(CurveOptions, null) : h(Focus, null),
  );
}

const textOf = (event: Event) => (event.target as HTMLInputElement).value;

function CurveOptions() {
  return h(
    "div",
    { class: "options" },
    labelled<XAxis>("Over", {
      value: state.axis,
      options: [
        ["step", "steps"],
        ["tokens", "tokens"],
        ["time", "training time"],
      ],
      onSelect: (axis) => changeView({ axis, window: undefined }),
    }),
    h(
      "label",
      null,
      h("span", null, "Smoothing"),
      h("input", {
        ...{ type: "range", min: 0, max: 0.2, step: 0.005, value: state.smoothing },
        "aria-valuetext": `${(100 * state.smoothing).toFixed(1)} % of the width`,
        onInput: (event: Event) => changeView({ smoothing: Number(textOf(event)) }),
      }),
    ),
    h("input", {
      ...{ type: "search", placeholder: "Find a metric", "aria-label": "Find a metric", value: state.filter },
      onInput: (event: Event) => change({ filter: textOf(event) }),
    }),
    state.window && h("button", { type: "button", onClick: () => change({ window: undefined }) }, "Show all"),
  );
}

/** Whose experts and episodes are seen. */
function Focus() {
  const ids = selected();
  if (ids.length < 2) return null;
  const options = [...shortNames(ids)];
  const onSelect = (focus: string) => changeView({ focus });
  return h("div", { class: "options" }, labelled("Run", { value: state.focus, options, onSelect }));
}
