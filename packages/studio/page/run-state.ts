/** What the run view knows, and all that can be done to it. */
import { follow, type Link } from "./follow.ts";
import { store } from "./frame.ts";
import { RunData, type XAxis } from "./run-data.ts";
import type { Theme } from "./theme.ts";
import { getJson, WireError } from "./wire.ts";

export interface Summary {
  id: string;
  kind: "pretrain" | "sft" | "rl" | "run";
  steps?: number;
  step: number;
  changed: number;
  live: boolean;
}

export const tabs = { curves: "Curves", inside: "Experts", episodes: "Episodes", samples: "Samples" } as const;
export type Tab = keyof typeof tabs;

export interface Range {
  from: number;
  to: number;
}

/** As one comes: noise goes, what happened stays. */
const SMOOTHING = 0.02;

export const state = {
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
  window: undefined as Range | undefined,
  filter: "",
  /** Words that the runs in the list have in their names or kinds. */
  wanted: "",
  /** Of those shown: whose experts and episodes are seen. */
  focus: "",
  theme: "" as Theme,
  layers: 12,
};

export const { change, onChange } = store(state);

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

/** Most runs at once: one a colour. */
export const MOST = 8;

export const selected = (): string[] => state.slots.filter((id) => id !== undefined);

/** A change that the address keeps, to be found again and sent. */
export function changeView(values: Partial<typeof state>): void {
  change(values);
  keepAddress();
}

function keepAddress(): void {
  const { tab, axis, smoothing, focus } = state;
  const parts = new URLSearchParams({ runs: selected().join(",") });
  if (tab !== "curves") parts.set("tab", tab);
  if (axis !== "step") parts.set("x", axis);
  if (smoothing !== SMOOTHING) parts.set("smooth", String(smoothing));
  if (focus && selected().length > 1) parts.set("of", focus);
  history.replaceState(null, "", `#${parts}`);
}

/** Runs that the address names. */
let asked: string[] = [];

export function readAddress(): void {
  const parts = new URLSearchParams(location.hash.slice(1));
  const [tab, axis] = [parts.get("tab") ?? "", parts.get("x") ?? ""];
  if (tab in tabs) state.tab = tab as Tab;
  if (axis === "tokens" || axis === "time") state.axis = axis;
  state.smoothing = Math.min(0.2, Math.max(0, Number(parts.get("smooth") ?? SMOOTHING) || 0));
  state.focus = parts.get("of") ?? "";
  asked = (parts.get("runs") ?? "").split(",").filter(Boolean).slice(0, MOST);
}

/** Asks which runs there are, again and again. */
export async function findRuns(): Promise<void> {
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

let stream: AbortController | undefined;
const place = { id: "" };

function select(slots: (string | undefined)[]): void {
  state.slots = slots;
  const ids = selected();
  for (const id of ids) if (!state.data.has(id)) state.data.set(id, new RunData(id));
  if (!ids.includes(state.focus)) state.focus = ids[0] ?? "";
  stream?.abort();
  stream = new AbortController();
  changeView({ window: undefined });
  for (const id of ids) if (!state.configs.has(id)) void about(id);
  if (!ids.length) return;
  void follow({
    ...{ runs: ids.map((id) => state.data.get(id)!), key: state.key, place, signal: stream.signal },
    onChange: changeSoon,
    onLink: (link, why = "") => change({ link, why }),
  });
}

/** Shows a run in the first colour that is free, or takes it out. */
export function toggle(id: string): void {
  const slots = [...state.slots];
  const at = slots.indexOf(id);
  const free = slots.indexOf(undefined);
  if (at >= 0) slots[at] = undefined;
  else if (free >= 0) slots[free] = id;
  else if (slots.length < MOST) slots.push(id);
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
export function tauOf(id: string): number | undefined {
  const { qkClip } = (state.configs.get(id)?.optimizer ?? {}) as { qkClip?: number | null };
  return qkClip ?? undefined;
}

/** Names without what all of them begin with. */
export function shortNames(ids: readonly string[]): Map<string, string> {
  const cut = ids.map((id) => id.split("/"));
  let common = 0;
  while (ids.length > 1 && cut.every((parts) => parts.length > common + 1 && parts[common] === cut[0]![common]))
    common++;
  return new Map(ids.map((id, i) => [id, cut[i]!.slice(common).join("/")]));
}
