/** Episodes of a run: which there are, and one of them as it went. */
import { Component, type ComponentChild, h } from "preact";
import { Tokens } from "./tokens.ts";
import { getJson } from "./wire.ts";

interface Call {
  id: string;
  function: { name: string; arguments: string | Record<string, unknown> };
}
interface Message {
  role: string;
  content?: string | { type: string; text?: string }[] | null;
  reasoning_content?: string;
  tool_calls?: Call[];
  tool_call_id?: string;
  name?: string;
}
interface Turn {
  message: number;
  weights?: number | string;
  tokens: { text: string; logprob: number | null }[];
}
export interface Episode {
  id: string;
  messages: Message[];
  ended?: string;
  task?: { world: string; seed: number | string; goal?: unknown; split?: string };
  reward?: { total: number; components: Record<string, { value: number; weight: number; kind: string }> };
  verification?: {
    goals: Record<string, boolean | null>;
    told?: Record<string, boolean | null>;
    unchanged: boolean | null;
    allowed: boolean | null;
    diff: { path: string; before?: unknown; after?: unknown }[];
  };
  turns?: Turn[];
}

interface Props {
  run: string;
  files: readonly string[];
  authKey: string;
}
interface State {
  file?: string;
  rows?: Episode[];
  trouble?: string;
  outcome: "all" | "success" | "fail";
  world: string;
  at: number;
}

const succeeded = ({ reward }: Episode): boolean =>
  (reward?.total ?? 0) >= 1 || reward?.components.outcome?.value === 1;

/** "step-60.jsonl" as people say it. */
const nameOf = (file: string): string => {
  const step = Number(/step-(\d+)/.exec(file)?.[1]).toLocaleString("en");
  return file.startsWith("train-") ? `step ${step}, in training` : `step ${step}, held out`;
};

export class Episodes extends Component<Props, State> {
  override state: State = { outcome: "all", world: "", at: 0 };
  #asked = "";

  override componentDidMount(): void {
    void this.#load();
  }
  override componentDidUpdate(before: Props): void {
    if (before.run !== this.props.run) this.setState({ file: undefined, rows: undefined, at: 0 } as never);
    void this.#load();
  }

  get #file(): string | undefined {
    const { files } = this.props;
    const { file } = this.state;
    return file && files.includes(file) ? file : files.at(-1);
  }

  async #load(): Promise<void> {
    const { run, authKey } = this.props;
    const file = this.#file;
    const asked = `${run} ${file}`;
    if (!file || asked === this.#asked) return;
    this.#asked = asked;
    try {
      const path = `/api/runs/episodes?run=${encodeURIComponent(run)}&file=${encodeURIComponent(file)}`;
      const { rows } = (await getJson(path, authKey)) as { rows: Episode[] };
      if (this.#asked === asked) this.setState({ rows, trouble: "", at: 0 });
    } catch (error) {
      if (this.#asked === asked) this.setState({ rows: [], trouble: (error as Error).message });
    }
  }

  override render({ files }: Props, { rows = [], trouble, outcome, world, at }: State): ComponentChild {
    if (!files.length)
      return h(
        "p",
        { class: "empty faint" },
        "This run has kept no episodes. Those of worlds appear at its evaluations.",
      );
    const worlds = [...new Set(rows.map(({ task }) => task?.world ?? "no world"))].sort();
    const kept = rows.filter(
      (row) =>
        (outcome === "all" || succeeded(row) === (outcome === "success")) &&
        (!worlds.includes(world) || (row.task?.world ?? "no world") === world),
    );
    const one = kept[Math.min(at, kept.length - 1)];
    const choose = (
      label: string,
      value: string,
      options: (readonly [string, string])[],
      set: (value: string) => void,
    ) =>
      h(
        "label",
        null,
        h("span", null, label),
        h(
          "select",
          { onChange: (event: Event) => set((event.target as HTMLSelectElement).value) },
          options.map(([key, text]) => h("option", { value: key, selected: key === value }, text)),
        ),
      );
    const count = (of: State["outcome"]) => rows.filter((row) => succeeded(row) === (of === "success")).length;
    return h(
      "div",
      { class: "episodes" },
      h(
        "div",
        { class: "filters" },
        choose(
          "Step",
          this.#file ?? "",
          files.toReversed().map((file) => [file, nameOf(file)]),
          (file) => this.setState({ file, at: 0 }),
        ),
        choose(
          "Outcome",
          outcome,
          [
            ["all", `all ${rows.length}`],
            ["success", `success (${count("success")})`],
            ["fail", `failed (${count("fail")})`],
          ],
          (value) => this.setState({ outcome: value as State["outcome"], at: 0 }),
        ),
        worlds.length > 1 &&
          choose("World", world, [["", "all"], ...worlds.map((name) => [name, name] as const)], (value) =>
            this.setState({ world: value, at: 0 }),
          ),
      ),
      trouble && h("p", { class: "problem", role: "alert" }, trouble),
      h(
        "div",
        { class: "two" },
        h(
          "ol",
          { class: "list", "aria-label": "Episodes" },
          kept.map((row, i) =>
            h(
              "li",
              { key: row.id },
              h(
                "button",
                {
                  type: "button",
                  "aria-current": row === one ? "true" : undefined,
                  onClick: () => this.setState({ at: i }),
                },
                h("span", { class: succeeded(row) ? "won" : "lost", "aria-hidden": true }, succeeded(row) ? "✓" : "✗"),
                h(
                  "span",
                  null,
                  h("strong", null, row.task?.world ?? "episode"),
                  ` ${goalOf(row)}`,
                  h("span", { class: "unseen" }, succeeded(row) ? ", success" : ", failed"),
                  h("small", { class: "faint" }, opening(row)),
                ),
              ),
            ),
          ),
          !kept.length && h("li", { class: "faint empty" }, "None of these."),
        ),
        one && h(EpisodeView, { key: one.id, episode: one }),
      ),
    );
  }
}

const goalOf = ({ task }: Episode): string => (typeof task?.goal === "string" ? task.goal : "");
const opening = ({ messages }: Episode): string => textOf(messages.find(({ role }) => role === "user")).slice(0, 120);

function textOf(message: Message | undefined): string {
  const { content } = message ?? {};
  if (typeof content === "string") return content;
  return (content ?? []).map(({ text = "" }) => text).join("");
}

function EpisodeView({ episode }: { episode: Episode }) {
  const { messages, turns = [], ended = "done", task, reward, verification } = episode;
  const results = new Map(messages.flatMap((m) => (m.role === "tool" && m.tool_call_id ? [[m.tool_call_id, m]] : [])));
  const won = succeeded(episode);
  const endings: Record<string, string> = {
    steps: "cut: no messages left",
    tokens: "cut: its budget of tokens was spent",
    length: "cut: a message was too long",
    context: "cut: the conversation was too long for the model",
  };
  return h(
    "article",
    { class: "episode", "aria-label": "Episode" },
    h(
      "header",
      { class: won ? "won" : "lost" },
      h(
        "h3",
        null,
        won ? "✓ Success" : "✗ Failed",
        reward && h("span", { class: "faint" }, ` reward ${round(reward.total)}`),
      ),
      h(
        "p",
        { class: "faint" },
        [task?.world, goalOf(episode), task && `seed ${task.seed}`, task?.split, endings[ended]]
          .filter(Boolean)
          .join(" · "),
      ),
    ),
    messages.map((message, i) => {
      const turn = turns.find((one) => one.message === i);
      return message.role === "tool" ? null : h(MessageView, { key: i, message, turn, results });
    }),
    h(VerdictView, { reward, verification }),
  );
}

const round = (n: number) => String(Math.round(n * 1000) / 1000);

function MessageView({
  message,
  turn,
  results,
}: {
  message: Message;
  turn: Turn | undefined;
  results: ReadonlyMap<string, Message>;
}) {
  const text = textOf(message);
  const { role, reasoning_content: reasoning, tool_calls: calls = [] } = message;
  if (role === "system")
    return h("details", { class: "system" }, h("summary", null, "System prompt"), h("p", { class: "plain" }, text));
  if (role === "user")
    return h("div", { class: "said", role: "group", "aria-label": "User" }, h("p", { class: "bubble" }, text));
  return h(
    "div",
    { class: "answer", role: "group", "aria-label": "Model" },
    reasoning &&
      h("details", { class: "reasoning" }, h("summary", null, "Thinking"), h("div", { class: "thought" }, reasoning)),
    text && h("p", { class: "plain" }, text),
    calls.map((call) => {
      const { name, arguments: args } = call.function;
      const result = results.get(call.id);
      return h(
        "section",
        { class: "call", "aria-label": `Call of ${name}` },
        h("header", null, h("strong", null, name), h("span", { class: "faint" }, call.id)),
        h("pre", { tabIndex: 0 }, pretty(args)),
        result && [h("h4", null, "Result"), h("pre", { tabIndex: 0 }, pretty(textOf(result)))],
      );
    }),
    turn && turn.tokens.length > 0 && h(TurnTokens, { turn }),
  );
}

/** Without a sign on what rounds to 0. */
const fixed = (value: number, digits: number) => (Math.round(value * 10 ** digits) / 10 ** digits + 0).toFixed(digits);

/** Folded: what was said is read first. */
function TurnTokens({ turn }: { turn: Turn }) {
  const known = turn.tokens.filter(({ logprob }) => logprob !== null);
  const sum = known.reduce((total, { logprob }) => total + logprob!, 0);
  const tokens = turn.tokens.map(({ text, logprob }) => ({ text, logprob: logprob ?? 0, top: [] }));
  const facts = known.length ? ` · ln p ${fixed(sum, 2)}, ${fixed(sum / known.length, 3)} a token` : "";
  return h(
    "details",
    { class: "turn-tokens" },
    h(
      "summary",
      null,
      `${tokens.length} tokens${facts}${turn.weights === undefined ? "" : ` · weights ${turn.weights}`}`,
    ),
    h(Tokens, { tokens }),
  );
}

const checks: Record<string, string> = {
  require: "the world is as was asked",
  evidence: "the evidence was looked at",
  speech: "the answer is of the right kind",
  tell: "what was asked for is told",
};

function VerdictView({ reward, verification }: Pick<Episode, "reward" | "verification">) {
  if (!reward && !verification) return null;
  const rows: [string, boolean | null][] = verification
    ? [
        ...Object.entries({ ...verification.goals, ...verification.told }).map(
          ([name, ok]): [string, boolean | null] => [checks[name] ?? name, ok],
        ),
        ["nothing else was changed", verification.unchanged],
        ["no rule was broken", verification.allowed],
      ]
    : [];
  const parts = Object.entries(reward?.components ?? {});
  return h(
    "section",
    { class: "verdict", "aria-label": "Verdict" },
    h("h4", null, "Verdict"),
    rows.length > 0 &&
      h(
        "ul",
        { class: "checks" },
        rows.map(([name, ok]) =>
          h(
            "li",
            { class: ok === null ? "faint" : ok ? "won" : "lost" },
            h("span", { "aria-hidden": true }, ok === null ? "–" : ok ? "✓" : "✗"),
            h("span", null, name, h("span", { class: "unseen" }, ok === null ? ": not asked" : ok ? ": yes" : ": no")),
          ),
        ),
      ),
    verification && !verification.diff.length && h("p", { class: "faint none" }, "Nothing changed in the world."),
    verification &&
      verification.diff.length > 0 &&
      h(
        "div",
        { class: "table", tabIndex: 0 },
        h(
          "table",
          null,
          h("caption", null, "What changed in the world"),
          verification.diff.map(({ path, before, after }) =>
            h(
              "tr",
              null,
              h("th", { scope: "row" }, path),
              h("td", null, show(before)),
              h("td", null, "→"),
              h("td", null, show(after)),
            ),
          ),
        ),
      ),
    parts.length > 0 &&
      h(
        "div",
        { class: "table", tabIndex: 0 },
        h(
          "table",
          null,
          h("caption", null, "Reward by component"),
          parts.map(([name, { value, weight, kind }]) =>
            h(
              "tr",
              null,
              h("th", { scope: "row" }, name),
              h("td", null, round(value)),
              h("td", { class: "faint" }, weight === 1 ? kind : `× ${round(weight)} ${kind}`),
            ),
          ),
        ),
      ),
  );
}

const show = (value: unknown): string =>
  value === undefined || value === null ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value);

function pretty(value: unknown): string {
  try {
    const json = JSON.stringify(typeof value === "string" ? JSON.parse(value) : value, null, 2);
    // What fits on a line stays on one.
    const flat = json.replace(/\n\s*/g, " ");
    return flat.length < 60 ? flat : json;
  } catch {
    return String(value);
  }
}
