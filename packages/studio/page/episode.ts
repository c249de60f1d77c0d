/** One episode of a run: what was said and called, token by token where it was kept, and how it was judged. */
import { h } from "preact";
import { CallView } from "./call.ts";
import { figure, fixed } from "./figures.ts";
import { Judged } from "./judged.ts";
import { Tokens } from "./tokens.ts";

interface Call {
  id: string;
  function: { name: string; arguments: string | Record<string, unknown> };
}
export interface Message {
  role: string;
  content?: string | { type: string; text?: string }[] | null;
  reasoning_content?: string;
  tool_calls?: Call[];
  tool_call_id?: string;
  name?: string;
}
export interface Turn {
  message: number;
  weights?: number | string;
  tokens: { text: string; logprob: number | null }[];
}
export interface Episode {
  id: string;
  messages: Message[];
  ended?: string;
  task?: { world: string; seed: number | string; goal?: unknown; split?: string };
  reward?: { total: number; why?: string; components: Record<string, { value: number; weight: number; kind: string }> };
  verification?: {
    goals: Record<string, boolean | null>;
    told?: Record<string, boolean | null>;
    unchanged: boolean | null;
    allowed: boolean | null;
    diff: { path: string; before?: unknown; after?: unknown }[];
  };
  turns?: Turn[];
}

export const succeeded = ({ reward }: Episode): boolean =>
  (reward?.total ?? 0) >= 1 || reward?.components.outcome?.value === 1;

export const goalOf = ({ task }: Episode): string => (typeof task?.goal === "string" ? task.goal : "");

/** Which part of the world was not seen in training: "names=train,pairs=heldout" as people say it. */
function splitOf({ task }: Episode): string | undefined {
  const parts = task?.split?.split(",").map((part) => part.split("="));
  if (!parts?.every(({ length }) => length === 2)) return task?.split;
  const heldOut = parts.filter(([, value]) => value === "heldout").map(([name]) => name);
  return heldOut.length ? `held-out ${heldOut.join(" and ")}` : "of training";
}

export function textOf(message: Message | undefined): string {
  const { content } = message ?? {};
  if (typeof content === "string") return content;
  return (content ?? []).map(({ text = "" }) => text).join("");
}

export function EpisodeView({ episode }: { episode: Episode }) {
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
        reward && h("span", { class: "faint" }, ` reward ${figure(reward.total)}`),
      ),
      h(
        "p",
        { class: "faint" },
        [task?.world, goalOf(episode), task && `seed ${task.seed}`, splitOf(episode), endings[ended]]
          .filter(Boolean)
          .join(" · "),
      ),
    ),
    messages.map((message, i) => {
      const turn = turns.find((one) => one.message === i);
      return message.role === "tool" ? null : h(MessageView, { key: i, message, turn, results });
    }),
    h(Judged, { reward, verification }),
  );
}

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
      return h(CallView, { name, id: call.id, args, result: result && textOf(result) });
    }),
    turn && turn.tokens.length > 0 && h(TurnTokens, { turn }),
  );
}

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
