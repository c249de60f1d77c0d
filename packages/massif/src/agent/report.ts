/** What a run's report says of its rollouts: success over the steps, a table, transcripts before and after. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { type AssistantMessage, type Message, type Trajectory, textOf } from "../chat/index.ts";
import { type Cell, readRows, type Section } from "../train/index.ts";
import { type Count, type Kind, type Score, successOf } from "./rollouts.ts";

const kinds: readonly Kind[] = ["act", "refuse", "answer"];
const cell = (count: Count | undefined): Cell => (count ? successOf(count) : "–");

/** Sections from the run's folder alone (metrics.jsonl, rollouts/), so that a resumed run reports as any other. */
export function rolloutSections(dir: string): Section[] {
  const rows = readRows(join(dir, "metrics.jsonl")).flatMap(({ step, worlds }) =>
    typeof step === "number" && Array.isArray(worlds) ? [{ step, scores: worlds as Score[] }] : [],
  );
  const [first, last] = [rows[0], rows.at(-1)];
  if (!first || !last) return [];
  const shown = first === last ? [last] : [first, last];
  return [
    {
      title: "Success in worlds",
      kind: "chart",
      panels: last.scores.map(({ world, split }) => {
        const at = rows.flatMap(({ step, scores }) => {
          const score = scores.find((other) => other.world === world);
          return score ? [{ step, score }] : [];
        });
        const present = kinds.filter((kind) => at.some(({ score }) => score.kinds[kind]));
        const points = (of: (score: Score) => Count | undefined) =>
          at.flatMap(({ step, score }) => {
            const count = of(score);
            return count ? [[step, count.wins / count.n] as [number, number]] : [];
          });
        return {
          title: `${world} (${split})`,
          x: "step",
          zero: true,
          lines: [
            { name: "all", points: points((score) => score) },
            ...(present.length > 1
              ? present.map((kind) => ({ name: kind, points: points((s) => s.kinds[kind]) }))
              : []),
          ],
        };
      }),
    },
    {
      title: "Success by what tasks ask for",
      note: "Share of episodes with its 95 % Wilson interval.",
      kind: "table",
      columns: ["world", "step", "episodes", "success", ...kinds, "not ended by themselves"],
      rows: shown.flatMap(({ step, scores }) =>
        scores.map((score): Cell[] => [
          `${score.world} (${score.split})`,
          step,
          score.n,
          cell(score),
          ...kinds.map((kind) => cell(score.kinds[kind])),
          score.n - (score.ended.done ?? 0),
        ]),
      ),
    },
    ...shown.flatMap(({ step }) => transcripts(dir, step)),
  ];
}

function transcripts(dir: string, step: number): Section[] {
  const file = join(dir, `rollouts/step-${step}.jsonl`);
  if (!existsSync(file)) return [];
  const rows = readRows(file) as unknown as Trajectory[];
  return rows.slice(0, 2).map((row) => transcript(row, `at step ${step}`));
}

/** An episode to be read. */
export const transcript = ({ task, reward, messages }: Trajectory, when: string): Section => ({
  title: `${task?.world ?? "An episode"} ${when}: ${reward?.total ? "done" : `failed${reward?.why === undefined ? "" : ` (${reward.why})`}`}`,
  kind: "transcript",
  turns: messages.map((message) => ({ role: message.role, text: spoken(message) })),
});

/** A message as people read it. */
function spoken(message: Message): string {
  const { reasoning_content: reasoning, tool_calls: calls = [] } =
    message.role === "assistant" ? message : ({} as Partial<AssistantMessage>);
  return [
    ...(reasoning ? [`(${reasoning})`] : []),
    textOf(message.content),
    ...calls.map(
      ({ function: { name, arguments: args } }) => `${name}(${typeof args === "string" ? args : JSON.stringify(args)})`,
    ),
  ]
    .filter(Boolean)
    .join("\n");
}
