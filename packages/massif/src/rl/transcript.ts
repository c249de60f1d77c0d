/** A trajectory as text for people. */
import { type Message, type Trajectory, textOf } from "../chat/index.ts";
import type { Sample } from "../train/index.ts";

export interface Turn {
  role: string;
  text: string;
}

export function turnsOf({ messages }: Trajectory): Turn[] {
  return messages.map((message) => ({ role: message.role, text: wordsOf(message) }));
}

function wordsOf(message: Message): string {
  const said = textOf(message.content ?? "");
  const calls = message.role === "assistant" ? (message.tool_calls ?? []) : [];
  const called = calls.map(({ function: f }) => `${f.name}(${asText(f.arguments)})`);
  return [...(said ? [said] : []), ...called].join("\n");
}

const asText = (value: unknown): string => (typeof value === "string" ? value : JSON.stringify(value));

/** What the user asked, and what came of it. */
export function transcriptOf(trajectory: Trajectory): Sample {
  const turns = turnsOf(trajectory);
  const asked = turns.findIndex(({ role }) => role === "user");
  const right = trajectory.reward?.total ? "right" : "wrong";
  const text = turns.slice(asked + 1).map((turn) => `${turn.role}: ${turn.text}`);
  return { prompt: `${turns[asked]?.text ?? ""}\n`, text: [...text, `(${right})`].join("\n") };
}
