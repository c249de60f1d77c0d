/** Which charts come first for which kind of run. What no chart here shows comes after them, one chart each. */
import type { RunData } from "./run-data.ts";

export interface Line {
  key: string;
  label: string;
}

export interface ChartSpec {
  title: string;
  lines: Line[];
  /** Begins with a logarithmic axis. */
  log?: boolean;
  /** Shares: the axis goes from 0 to 1. */
  share?: boolean;
  /** Says something with so many lines only: what it would show alone is in another chart. */
  least?: number;
  /** A level that means something. */
  level?: { at: number; label: string };
  /** Steps at which this is above 0 are marked. */
  marks?: { key: string; label: string };
}

export interface Section {
  title: string;
  charts: ChartSpec[];
}

const one = (title: string, key: string, more: Partial<ChartSpec> = {}): ChartSpec => ({
  title,
  lines: [{ key, label: title }],
  ...more,
});
const many = (title: string, lines: Record<string, string>, more: Partial<ChartSpec> = {}): ChartSpec => ({
  title,
  lines: Object.entries(lines).map(([label, key]) => ({ key, label })),
  ...more,
});

const stability = (tau: number | undefined): ChartSpec[] => [
  one("Gradient norm", "gradNorm", { log: true }),
  one("Largest attention logit", "maxLogit", {
    ...(tau !== undefined && { level: { at: tau, label: `QK-Clip above ${tau}` } }),
    marks: { key: "clippedHeads", label: "heads clipped" },
  }),
  one("Heads clipped", "clippedHeads"),
  one("Load of the busiest expert over the mean", "loadImbalance"),
];

const speed: ChartSpec[] = [
  many("Tokens a second", { training: "tokensPerSecond", rollout: "rolloutTokensPerSecond" }),
  one("Share of the machine's FLOP/s", "mfu"),
  one("Seconds a step", "seconds"),
];

/** Keys under a prefix, as lines. */
const under = (runs: readonly RunData[], prefix: string): Line[] =>
  [...new Set(runs.flatMap(({ columns }) => [...columns.keys()].filter((key) => key.startsWith(prefix))))]
    .sort()
    .map((key) => ({ key, label: key.slice(prefix.length) }));

function learning(runs: readonly RunData[], kinds: ReadonlySet<string>): ChartSpec[] {
  const text = [
    many("Loss, nats a token", { training: "loss", "held out": "evalLoss" }),
    one("Held-out bits per byte", "evalBitsPerByte"),
  ];
  const worlds = [
    many("Success on held-out tasks", { all: "evalSuccess" }, { share: true }),
    { title: "Held out, by world and what is asked", lines: under(runs, "held-out/"), share: true },
  ];
  const gym = [
    many("Reward", { total: "reward" }),
    { title: "Reward by component", lines: under(runs, "reward/"), least: 2 },
    {
      title: "Success, by what is asked",
      lines: [{ key: "success", label: "all" }, ...under(runs, "success/")],
      share: true,
    },
    ...worlds,
    many("pass@k and pass^k of groups", { "pass@k": "passAtK", "pass^k": "passHatK" }, { share: true }),
    one("Share of groups with signal", "signal", { share: true }),
    one("Entropy, nats a token", "entropy"),
    one("KL from the old policy, nats a token", "kl", { log: true }),
    one("Largest |Δ log p|, rollout to trainer", "mismatch", { log: true, level: { at: 1e-5, label: "bar 1e-5" } }),
    one("Share of tokens routed as in the rollout", "routingEqual"),
    many("What an update moved", { wanted: "moved", "after scaling back": "movedBounded" }),
    one("Tokens that an episode wrote", "length"),
    many("Share of episodes", { "cut by the budget": "truncated", "took a shortcut": "shortcut" }, { share: true }),
    { title: "Success in training, by task", lines: under(runs, "tasks/"), share: true },
  ];
  return [
    ...(kinds.has("rl") ? gym : []),
    ...(kinds.has("sft") && !kinds.has("rl") ? [text[0]!, ...worlds] : []),
    ...(!kinds.has("sft") || kinds.has("pretrain") ? text : [text[0]!]),
    one("Learning rate", "lr"),
  ];
}

/** Sections in their order, without the lines and charts that no run has. `tau` is QK-Clip's threshold. */
export function sectionsOf(runs: readonly RunData[], kinds: ReadonlySet<string>, tau: number | undefined): Section[] {
  const has = (key: string) => runs.some(({ columns }) => (columns.get(key)?.count ?? 0) > 0);
  const seen = new Set<string>(["tokens"]);
  const titles = new Set<string>();
  const kept = (charts: readonly ChartSpec[]): ChartSpec[] =>
    charts.flatMap((chart) => {
      const lines = chart.lines.filter(({ key }) => has(key));
      if (!lines.length || titles.has(chart.title)) return [];
      for (const { key } of lines) seen.add(key);
      if (lines.length < (chart.least ?? 1)) return [];
      titles.add(chart.title);
      return [{ ...chart, lines }];
    });
  const sections = [
    { title: "Learning", charts: kept(learning(runs, kinds)) },
    { title: "Stability", charts: kept(stability(tau)) },
    { title: "Speed", charts: kept(speed) },
  ];
  const rest = [...new Set(runs.flatMap(({ columns }) => [...columns.keys()]))].filter((key) => !seen.has(key)).sort();
  return [...sections, { title: "Everything else", charts: kept(rest.map((key) => one(key, key))) }].filter(
    ({ charts }) => charts.length,
  );
}
