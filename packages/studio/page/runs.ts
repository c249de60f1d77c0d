/** The run view: runs of this machine as they are written, side by side; what their experts and heads do; their episodes. */
import { h, render } from "preact";
import { Chart, extent, type Shown } from "./chart.ts";
import { sectionsOf } from "./curated.ts";
import { Episodes } from "./episodes.ts";
import { follow, type Link } from "./follow.ts";
import { expertMaps, Heat, logitMaps, type Map2d } from "./heat.ts";
import { forgetInks } from "./ink.ts";
import { Mark } from "./mark.ts";
import { RunData, type XAxis } from "./run-data.ts";
import { Samples } from "./samples.ts";
import { getJson, WireError } from "./wire.ts";

interface Summary {
  id: string;
  kind: "pretrain" | "sft" | "rl" | "run";
  steps?: number;
  step: number;
  changed: number;
  live: boolean;
}

const tabs = { curves: "Curves", inside: "Experts", episodes: "Episodes", samples: "Samples" } as const;
type Tab = keyof typeof tabs;

/** As one comes: noise goes, what happened stays. */
const SMOOTHING = 0.02;

const state = {
  runs: [] as Summary[],
  loaded: false,
  chat: false,
  trouble: "",
  needsKey: false,
  key: "",
  /** In the order of their colours; a gap keeps the others' colours. */
  slots: [] as (string | undefined)[],
  data: new Map<string, RunData>(),
  configs: new Map<string, Record<string, unknown>>(),
  link: "connecting" as Link,
  why: "",
  tab: "curves" as Tab,
  axis: "step" as XAxis,
  smoothing: SMOOTHING,
  window: undefined as { from: number; to: number } | undefined,
  filter: "",
  /** Of those shown: whose experts and episodes are seen. */
  focus: "",
  theme: "" as "" | "light" | "dark",
  layers: 12,
};

const place = { id: "" };
let stream: AbortController | undefined;
let drawing = false;

function change(values: Partial<typeof state> = {}): void {
  Object.assign(state, values);
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    draw();
  });
}

/** While rows stream in, a few times a second is as often as anyone can read. */
let later = false;
function changeSoon(): void {
  if (later) return;
  later = true;
  setTimeout(() => {
    later = false;
    change();
  }, 200);
}

const selected = (): string[] => state.slots.filter((id) => id !== undefined);

/** What is seen is in the address, to be kept and sent. */
function keepAddress(): void {
  const { tab, axis, smoothing, focus } = state;
  const parts = new URLSearchParams({ runs: selected().join(",") });
  if (tab !== "curves") parts.set("tab", tab);
  if (axis !== "step") parts.set("x", axis);
  if (smoothing !== SMOOTHING) parts.set("smooth", String(smoothing));
  if (focus && selected().length > 1) parts.set("of", focus);
  history.replaceState(null, "", `#${parts}`);
}

function readAddress(): void {
  const parts = new URLSearchParams(location.hash.slice(1));
  const [tab, axis] = [parts.get("tab") ?? "", parts.get("x") ?? ""];
  if (tab in tabs) state.tab = tab as Tab;
  if (axis === "tokens" || axis === "time") state.axis = axis;
  state.smoothing = Math.min(0.2, Math.max(0, Number(parts.get("smooth") ?? SMOOTHING) || 0));
  state.focus = parts.get("of") ?? "";
  asked = (parts.get("runs") ?? "").split(",").filter(Boolean).slice(0, 8);
}
/** Runs that the address names. */
let asked: string[] = [];

async function findRuns(): Promise<void> {
  try {
    const { runs, chat } = (await getJson("/api/runs", state.key)) as { runs: Summary[]; chat: boolean };
    const known = new Set(runs.map(({ id }) => id));
    const slots = asked.filter((id) => known.has(id));
    const first = !state.loaded;
    change({ runs, chat, loaded: true, trouble: "", needsKey: false });
    if (first) select(slots.length ? slots : runs.slice(0, 1).map(({ id }) => id));
  } catch (error) {
    const status = error instanceof WireError ? error.trouble.status : -1;
    change({ trouble: (error as Error).message, needsKey: status === 401 });
    if (status === 401) return;
  }
  setTimeout(findRuns, 5000);
}

function select(slots: (string | undefined)[]): void {
  state.slots = slots;
  const ids = selected();
  for (const id of ids) if (!state.data.has(id)) state.data.set(id, new RunData(id));
  if (!ids.includes(state.focus)) state.focus = ids[0] ?? "";
  stream?.abort();
  stream = new AbortController();
  keepAddress();
  change({ window: undefined });
  for (const id of ids) if (!state.configs.has(id)) void about(id);
  if (!ids.length) return;
  void follow({
    ...{ runs: ids.map((id) => state.data.get(id)!), key: state.key, place, signal: stream.signal },
    onChange: changeSoon,
    onLink: (link, why = "") => change({ link, why }),
  });
}

function toggle(id: string): void {
  const slots = [...state.slots];
  const at = slots.indexOf(id);
  const free = slots.indexOf(undefined);
  if (at >= 0) slots[at] = undefined;
  else if (free >= 0) slots[free] = id;
  else if (slots.length < 8) slots.push(id);
  select(slots);
}

async function about(id: string): Promise<void> {
  try {
    const { config } = (await getJson(`/api/runs/about?run=${encodeURIComponent(id)}`, state.key)) as {
      config: Record<string, unknown>;
    };
    state.configs.set(id, config);
    change();
  } catch {
    // Its curves come without it.
  }
}

/** QK-Clip's threshold in a run's recipe. */
function tauOf(id: string): number | undefined {
  const { qkClip } = (state.configs.get(id)?.optimizer ?? {}) as { qkClip?: number | null };
  return qkClip ?? undefined;
}

/** Names without what all of them begin with. */
function shortNames(ids: readonly string[]): Map<string, string> {
  const cut = ids.map((id) => id.split("/"));
  let common = 0;
  while (ids.length > 1 && cut.every((parts) => parts.length > common + 1 && parts[common] === cut[0]![common]))
    common++;
  return new Map(ids.map((id, i) => [id, cut[i]!.slice(common).join("/")]));
}

const kindNames = { pretrain: "pre-training", sft: "SFT", rl: "RL", run: "run" };

function Header() {
  const dark = state.theme === "dark" || (!state.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  return h(
    "header",
    { class: "top" },
    h("h1", null, h(Mark, null), "Massif"),
    h(
      "nav",
      { "aria-label": "Pages" },
      state.chat && h("a", { href: "/" }, "Chat"),
      h("a", { href: "/runs", "aria-current": "page" }, "Runs"),
    ),
    h("span", { class: "gap" }),
    h(LinkState, null),
    h(
      "button",
      {
        ...{ type: "button", class: "icon", "aria-label": dark ? "Light colours" : "Dark colours" },
        onClick: () => change({ theme: dark ? "light" : "dark" }),
      },
      dark ? "☀" : "☾",
    ),
  );
}

function LinkState() {
  const { link, why } = state;
  if (!selected().length) return null;
  const words = { connecting: "Connecting …", live: "Live", lost: "Connection lost, trying again" };
  return h(
    "span",
    { class: `stream ${link}`, role: "status", title: why },
    h("span", { class: "dot", "aria-hidden": true }),
    words[link],
  );
}

function RunList() {
  const names = shortNames(state.runs.map(({ id }) => id));
  const chosen = selected().length;
  return h(
    "details",
    { class: "runs", open: matchMedia("(width >= 56rem)").matches || undefined },
    h("summary", null, chosen ? `Runs · ${chosen} of ${state.runs.length} shown` : "Runs"),
    h(
      "ul",
      null,
      state.runs.map(({ id, kind, steps, step, live }) => {
        const colour = state.slots.indexOf(id);
        const far = steps ? `${step.toLocaleString("en")} of ${steps.toLocaleString("en")}` : step.toLocaleString("en");
        return h(
          "li",
          { key: id },
          h(
            "label",
            null,
            h("input", {
              ...{ type: "checkbox", checked: colour >= 0, onChange: () => toggle(id) },
              ...{ disabled: colour < 0 && chosen >= 8, class: colour >= 0 ? `run-${colour}` : "" },
            }),
            h(
              "span",
              null,
              h("span", { class: "name", title: id }, names.get(id)),
              h(
                "small",
                { class: "faint" },
                `${kindNames[kind]} · step ${far}`,
                live && h("span", { class: "on" }, " · running"),
              ),
            ),
          ),
        );
      }),
    ),
  );
}

function Toolbar() {
  const { tab } = state;
  const tabButton = (name: Tab) =>
    h(
      "button",
      {
        ...{ type: "button", role: "tab", id: `tab-${name}`, "aria-selected": tab === name, "aria-controls": "panel" },
        tabIndex: tab === name ? 0 : -1,
        onClick: () => choose(name),
      },
      tabs[name],
    );
  const names = Object.keys(tabs) as Tab[];
  const choose = (name: Tab) => {
    change({ tab: name });
    keepAddress();
  };
  const onKey = (event: KeyboardEvent) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const next = names[(names.indexOf(tab) + by + names.length) % names.length]!;
    choose(next);
    document.getElementById(`tab-${next}`)?.focus();
  };
  return h(
    "div",
    { class: "toolbar" },
    h("div", { role: "tablist", "aria-label": "Views", onKeyDown: onKey }, names.map(tabButton)),
    tab === "curves" ? h(CurveOptions, null) : h(Focus, null),
  );
}

function CurveOptions() {
  const axes: Record<XAxis, string> = { step: "steps", tokens: "tokens", time: "training time" };
  return h(
    "div",
    { class: "options" },
    h(
      "label",
      null,
      h("span", null, "Over"),
      h(
        "select",
        {
          onChange: (event: Event) => {
            change({ axis: (event.target as HTMLSelectElement).value as XAxis, window: undefined });
            keepAddress();
          },
        },
        Object.entries(axes).map(([axis, name]) => h("option", { value: axis, selected: axis === state.axis }, name)),
      ),
    ),
    h(
      "label",
      null,
      h("span", null, "Smoothing"),
      h("input", {
        ...{ type: "range", min: 0, max: 0.2, step: 0.005, value: state.smoothing },
        "aria-valuetext": `${(100 * state.smoothing).toFixed(1)} % of the width`,
        onInput: (event: Event) => {
          change({ smoothing: Number((event.target as HTMLInputElement).value) });
          keepAddress();
        },
      }),
    ),
    h("input", {
      ...{ type: "search", placeholder: "Find a metric", "aria-label": "Find a metric", value: state.filter },
      onInput: (event: Event) => change({ filter: (event.target as HTMLInputElement).value }),
    }),
    state.window && h("button", { type: "button", onClick: () => change({ window: undefined }) }, "Show all"),
  );
}

function Focus() {
  const ids = selected();
  const names = shortNames(ids);
  if (ids.length < 2) return null;
  return h(
    "div",
    { class: "options" },
    h(
      "label",
      null,
      h("span", null, "Run"),
      h(
        "select",
        {
          onChange: (event: Event) => {
            change({ focus: (event.target as HTMLSelectElement).value });
            keepAddress();
          },
        },
        ids.map((id) => h("option", { value: id, selected: id === state.focus }, names.get(id))),
      ),
    ),
  );
}

/** The same list while the same runs are shown: charts compare it. */
let shownBefore: Shown[] = [];
function shownRuns(): Shown[] {
  const names = shortNames(selected());
  const now = state.slots.flatMap((id, colour): Shown[] =>
    id === undefined ? [] : [{ run: state.data.get(id)!, name: names.get(id)!, colour }],
  );
  const same =
    now.length === shownBefore.length &&
    now.every(
      (one, i) =>
        one.run === shownBefore[i]!.run && one.name === shownBefore[i]!.name && one.colour === shownBefore[i]!.colour,
    );
  return same ? shownBefore : (shownBefore = now);
}

function Curves() {
  const shown = shownRuns();
  const runs = shown.map(({ run }) => run);
  const kinds = new Set(state.runs.filter(({ id }) => state.slots.includes(id)).map(({ kind }) => kind));
  const taus = new Set(selected().map(tauOf));
  const wanted = state.filter.trim().toLowerCase();
  const sections = sectionsOf(runs, kinds, taus.size === 1 ? [...taus][0] : undefined);
  const version = `${runs.map((run) => run.version).join()} ${state.theme} ${[...taus].join()}`;
  const found = sections
    .map(({ title, charts }) => ({
      title,
      charts: charts.filter(
        ({ title, lines }) =>
          !wanted ||
          [title, ...lines.flatMap(({ key, label }) => [key, label])].some((text) =>
            text.toLowerCase().includes(wanted),
          ),
      ),
    }))
    .filter(({ charts }) => charts.length);
  const onWindow = (window: { from: number; to: number } | undefined) => {
    const all = extent(shown, state.axis);
    const wide = window && window.from <= all.from && window.to >= all.to;
    change({ window: wide ? undefined : window });
  };
  return [
    !found.length && h("p", { class: "empty faint" }, wanted ? "No metric of that name." : "No rows yet."),
    ...found.map(({ title, charts }) =>
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
              ...{
                spec,
                runs: shown,
                axis: state.axis,
                window: state.window,
                smoothing: state.smoothing,
                version,
                onWindow,
              },
            }),
          ),
        ),
      ),
    ),
    h(Events, { key: "events", shown }),
  ];
}

function Events({ shown }: { shown: readonly Shown[] }) {
  const rows = shown.flatMap(({ run, name }) => run.events.map((event) => ({ name, event })));
  if (!rows.length) return null;
  const many = shown.length > 1;
  const wrong = new Set(["skip", "rollback", "lock-in", "mismatch"]);
  return h(
    "section",
    { class: "events", "aria-label": "Events" },
    h("h2", null, "Events"),
    h(
      "div",
      { class: "table", tabIndex: 0 },
      h(
        "table",
        null,
        h(
          "thead",
          null,
          h(
            "tr",
            null,
            [...(many ? ["Run"] : []), "Step", "Event", "What"].map((name) => h("th", { scope: "col" }, name)),
          ),
        ),
        h(
          "tbody",
          null,
          rows
            .slice(-200)
            .toReversed()
            .map(({ name, event: { event, step, time, ...rest } }) =>
              h(
                "tr",
                { class: wrong.has(event) ? "lost" : "" },
                many && h("td", null, name),
                h("td", { class: "number" }, step.toLocaleString("en")),
                h("td", null, event),
                h("td", { class: "faint" }, sayEvent(rest)),
              ),
            ),
        ),
      ),
    ),
  );
}

function sayEvent(rest: Record<string, unknown>): string {
  const say = (value: unknown): string =>
    Array.isArray(value)
      ? `${value.slice(0, 3).join(", ")}${value.length > 3 ? ", …" : ""}`
      : typeof value === "object" && value !== null
        ? Object.values(value).map(say).join(", ")
        : typeof value === "number" && value !== 0 && Math.abs(value) < 0.001
          ? value.toExponential(1)
          : String(value);
  return Object.entries(rest)
    .map(([key, value]) => (typeof value === "object" ? say(value) : `${key} ${say(value)}`))
    .join(" · ");
}

function Inside() {
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
  const part = (title: string, scale: string[], note: string, maps: Map2d[]) =>
    maps.length > 0 &&
    h(
      "section",
      { class: "charts", "aria-label": title },
      h("h2", null, title),
      h(
        "p",
        { class: `faint scale${maps[0]!.diverging ? " diverging" : ""}` },
        scale.map((text, i) => [h("span", { class: `shade s${i}`, "aria-hidden": true }), `${text} `]),
        h("span", { class: "note" }, note),
      ),
      h(
        "div",
        { class: "grid" },
        maps.slice(0, state.layers).map((map) => h(Heat, { key: map.title, map, version })),
      ),
      maps.length > state.layers &&
        h("button", { type: "button", onClick: () => change({ layers: maps.length }) }, `All ${maps.length} layers`),
    );
  return [
    part(
      "Load of the experts",
      ["idle (¼ of the mean)", "even", "overloaded (4 ×)"],
      "A row is an expert, a column a step.",
      experts,
    ),
    part(
      "Largest attention logit of each head",
      tau === undefined ? ["0", "half", "the largest"] : ["0", `${tau / 2}`, `${tau}, where QK-Clip acts`],
      tau === undefined ? "" : "A dot: this head was clipped at this step.",
      heads,
    ),
  ];
}

function View() {
  const run = state.data.get(state.focus);
  switch (state.tab) {
    case "curves":
      return h(Curves, null);
    case "inside":
      return h(Inside, null);
    case "episodes":
      return run ? h(Episodes, { run: run.id, files: run.files.episodes, authKey: state.key }) : null;
    case "samples":
      return run ? h(Samples, { run: run.id, files: run.files.samples, authKey: state.key }) : null;
  }
}

function Nothing() {
  const { loaded, trouble, needsKey } = state;
  if (needsKey)
    return h(
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
  if (trouble) return h("p", { class: "empty problem", role: "alert" }, trouble);
  if (!loaded) return h("p", { class: "empty faint" }, "Looking for runs …");
  if (!state.runs.length)
    return h(
      "p",
      { class: "empty" },
      "There are no runs here. ",
      h("code", null, "massif studio runs"),
      " shows those in a folder.",
    );
  return h("p", { class: "empty faint" }, "Choose a run.");
}

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

let drawnTheme: string | undefined;
function draw(): void {
  const { theme } = state;
  const now = `${theme} ${matchMedia("(prefers-color-scheme: dark)").matches}`;
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  if (now !== drawnTheme) forgetInks();
  drawnTheme = now;
  render(h(App, null), document.body);
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  state.theme = "";
  for (const run of state.data.values()) run.version++;
  change();
});
readAddress();
draw();
void findRuns();
