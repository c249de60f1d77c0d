/** The report of a story: one table over all models, the same tasks played before and after, and the curves of each stage. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { type Kind, successOf, transcript } from "../agent/index.ts";
import { type Cell, type ReportData, readReport, type Section, writeReport } from "../train/index.ts";
import { type Evaluated, readEpisodes, readEvaluated } from "./evaluation.ts";
import { STAGES, type Stage, type Story } from "./recipe.ts";

const TITLES: Record<Stage, string> = { pretrain: "Pre-training", sft: "SFT", rl: "RL" };
const kinds: readonly Kind[] = ["act", "refuse", "answer"];

/** From what stands in the folder `dir`, however far the story has come. */
export function writeStoryReport(story: Story, dir: string): void {
  const evaluated = readEvaluated(dir);
  const stages = STAGES.flatMap((stage) => {
    const report = readReport(join(dir, stage));
    return report ? [{ stage, report }] : [];
  });
  const { recipe } = story.pretrain;
  writeReport(dir, {
    title: `Massif: ${recipe.name}, from text to a tool-using agent`,
    summary: summary(story, evaluated, stages),
    facts: stages[0]?.report.facts ?? [],
    sections: [
      ...table(story, evaluated),
      ...beforeAndAfter(story, dir, evaluated),
      ...stages.flatMap(({ stage, report }) => report.sections.flatMap((section) => ofStage(stage, section))),
      nextSteps(dir),
    ],
  });
}

/** Commands of a stage are not those of the story. */
const ofStage = (stage: Stage, section: Section): Section[] =>
  section.kind === "commands" ? [] : [{ ...section, title: `${TITLES[stage]}: ${section.title}` }];

function summary(
  { evaluation }: Story,
  evaluated: readonly Evaluated[],
  stages: readonly { stage: Stage; report: ReportData }[],
): string {
  const models = evaluated.map(({ model }) => model).join(" → ");
  const shares = evaluation.tasks.map(
    ({ title }, i) => `${title} ${evaluated.map(({ scores }) => successOf(scores[i]!).value.toFixed(2)).join(" → ")}`,
  );
  const first = stages.find(({ stage }) => stage === "pretrain")?.report.summary;
  return [
    ...(first ? [`Pre-training, ${first}`] : []),
    ...(evaluated.length ? [`Tasks done (${models}): ${shares.join("; ")}.`] : []),
  ].join(" ");
}

function table({ evaluation }: Story, evaluated: readonly Evaluated[]): Section[] {
  if (!evaluated.length) return [];
  const rows = evaluation.tasks.flatMap(({ title }, i): Cell[][] => {
    const scores = evaluated.map(({ scores }) => scores[i]!);
    const present = kinds.filter((kind) => scores.some((score) => score.kinds[kind]));
    return [
      [title, scores[0]!.n, ...scores.map(successOf)],
      ...(present.length > 1 ? present : []).map((kind): Cell[] => [
        `… to ${kind}`,
        scores[0]!.kinds[kind]?.n ?? 0,
        ...scores.map(({ kinds }): Cell => (kinds[kind] ? successOf(kinds[kind]) : "–")),
      ]),
    ];
  });
  return [
    {
      title: "From untrained to RL",
      note: "Share of episodes that the world's verifier accepts, sampled at temperature 1, with 95 % Wilson intervals; the same tasks for every model.",
      kind: "table",
      columns: ["task", "episodes", ...evaluated.map(({ model }) => model)],
      rows,
    },
  ];
}

/** Of each task the first episode that failed before and is done after; else the first that there is. */
function beforeAndAfter({ evaluation }: Story, dir: string, evaluated: readonly Evaluated[]): Section[] {
  const [before, after] = evaluated.slice(-2);
  if (!before || !after || before.model === "untrained") return [];
  const [first, last] = [before, after].map(({ model }) => readEpisodes(dir, model));
  const per = (first?.length ?? 0) / evaluation.tasks.length;
  return evaluation.tasks.flatMap((_, t) => {
    const from = Math.round(t * per);
    const pairs = (first ?? [])
      .slice(from, Math.round(from + per))
      .map((episode, i) => ({ episode, later: last?.[from + i] }));
    const turned = pairs.find(({ episode, later }) => !episode.reward?.total && later?.reward?.total);
    const { episode, later } = turned ?? {};
    return episode && later
      ? [transcript(episode, `after ${before.model}`), transcript(later, `after ${after.model}, the same task`)]
      : [];
  });
}

function nextSteps(dir: string): Section {
  const has = (stage: Stage) => existsSync(join(dir, stage, "report.html"));
  return {
    title: "What to do next",
    kind: "commands",
    items: [
      { command: `massif serve --model ${dir}`, why: "OpenAI and Anthropic APIs, and a page where you play the user" },
      {
        command: `massif generate --model ${join(dir, "pretrain")} --prompt "My fellow citizens,"`,
        why: "let it write",
      },
      ...(has("rl")
        ? [
            {
              command: `massif rl ledger --model ${join(dir, "sft")}`,
              why: "reinforcement learning of one world alone",
            },
          ]
        : [{ command: "npm start -- --stages sft,rl", why: "go on with SFT and reinforcement learning" }]),
    ],
  };
}
