/** The run view: runs of this machine as they are written, side by side; what their experts and heads do; their episodes. */
import { h, render } from "preact";
import { Curves } from "./curves.ts";
import { Episodes } from "./episodes.ts";
import { Experts } from "./experts.ts";
import { forgetInks } from "./ink.ts";
import { Mark } from "./mark.ts";
import { Pages } from "./pages.ts";
import { RunList } from "./run-list.ts";
import { change, findRuns, onChange, readAddress, selected, state } from "./run-state.ts";
import { Samples } from "./samples.ts";
import { showTheme, systemDark, ThemeButton } from "./theme.ts";
import { Toolbar } from "./toolbar.ts";

/** Past the list of runs, which may be long. */
const skip = () => document.querySelector<HTMLElement>("[role=tab][aria-selected=true]")?.focus();

const Header = () =>
  h(
    "header",
    { class: "top" },
    selected().length > 0 && h("button", { type: "button", class: "skip", onClick: skip }, "Skip to the runs shown"),
    h("h1", null, h(Mark, null), "Massif"),
    h(Pages, { here: "/runs", others: state.chat }),
    h("span", { class: "gap" }),
    selected().length > 0 && h(LinkState, null),
    h(ThemeButton, { theme: state.theme, onTheme: (theme) => change({ theme }) }),
  );

function LinkState() {
  const { link, why } = state;
  const words = { connecting: "Connecting …", live: "Live", lost: "Connection lost, trying again" };
  return h(
    "span",
    { class: `stream ${link}`, role: "status", title: why },
    h("span", { class: "dot", "aria-hidden": true }),
    words[link],
  );
}

function View() {
  const { tab, key } = state;
  if (tab === "curves") return h(Curves, null);
  if (tab === "inside") return h(Experts, null);
  const run = state.data.get(state.focus);
  if (!run) return null;
  return tab === "episodes"
    ? h(Episodes, { run: run.id, files: run.files.episodes, authKey: key })
    : h(Samples, { run: run.id, files: run.files.samples, authKey: key });
}

function Nothing() {
  const { loaded, trouble, needsKey, runs } = state;
  if (needsKey) return h(KeyForm, null);
  if (trouble) return h("p", { class: "empty problem", role: "alert" }, trouble);
  if (!loaded) return h("p", { class: "empty faint" }, "Looking for runs …");
  if (runs.length) return h("p", { class: "empty faint" }, "Choose a run.");
  return h(
    "p",
    { class: "empty" },
    "There are no runs here. ",
    h("code", null, "massif studio runs"),
    " shows those in a folder.",
  );
}

const KeyForm = () =>
  h(
    "form",
    {
      class: "empty",
      onSubmit: (event: Event) => {
        event.preventDefault();
        void findRuns();
      },
    },
    h("label", { for: "key" }, "This server asks for a key."),
    h("input", {
      ...{ id: "key", type: "password", autocomplete: "off", value: state.key },
      onInput: (event: Event) => change({ key: (event.target as HTMLInputElement).value }),
    }),
    h("button", { type: "submit", class: "primary" }, "Show the runs"),
  );

const App = () =>
  h(
    "div",
    { class: "app run-app" },
    h(Header, null),
    state.runs.length > 0 && h(RunList, null),
    h(
      "main",
      null,
      selected().length
        ? [
            h(Toolbar, { key: "toolbar" }),
            state.trouble && h("p", { class: "problem", role: "alert", key: "trouble" }, state.trouble),
            h(
              "div",
              { id: "panel", key: "panel", role: "tabpanel", "aria-labelledby": `tab-${state.tab}` },
              h(View, null),
            ),
          ]
        : h(Nothing, null),
    ),
  );

let drawn: string | undefined;
function draw(): void {
  showTheme(state.theme);
  const now = `${state.theme} ${systemDark.matches}`;
  if (now !== drawn) forgetInks();
  drawn = now;
  render(h(App, null), document.body);
}

systemDark.addEventListener("change", () => {
  for (const run of state.data.values()) run.version++;
  change({ theme: "" });
});
onChange(draw);
readAddress();
draw();
void findRuns();
