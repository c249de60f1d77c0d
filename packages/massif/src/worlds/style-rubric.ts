/**
 * Short replies under a rubric that code can check, so that a critic's verdicts can be held against a known truth. The
 * criteria are K2's layers in small: core (says what was asked), prescriptive (no praise, no talk about itself), task.
 */
import type { Random } from "../common/index.ts";
import type { Question, Quiz } from "./single-turn.ts";
import { saysAny, tokens } from "./speech.ts";

const TOPICS = [
  "the sea",
  "a garden",
  "the moon",
  "an old house",
  "the market",
  "a long train ride",
  "the winter",
  "a small library",
];
const NOUNS = [
  "lamp",
  "river",
  "stone",
  "bread",
  "letter",
  "bird",
  "window",
  "boat",
  "clock",
  "apple",
  "bridge",
  "candle",
];
const FILLERS = ["quiet", "slow", "old", "bright", "warm", "small", "soft", "calm", "plain", "clear", "deep", "kind"];
/** Openers and self-praise that the prescriptive rubric forbids (report §3.2.2: no opening praise, no justification of itself). */
const PRAISE = [
  "great question",
  "what a",
  "certainly",
  "of course",
  "sure",
  "absolutely",
  "wonderful",
  "brilliant",
  "i hope",
  "this answer",
  "this response",
  "as requested",
  "as an ai",
];
const GLUE = ["a", "an", "the", "is", "are", "was", "and", "of", "in", "on", "near", "by", "with", "there"];

export interface Criterion {
  name: string;
  ok: boolean;
  why?: string;
}

export interface StyleTask {
  topic: string;
  must: string[];
  least: number;
  most: number;
  avoid: string;
  request: string;
}

/** Every criterion for one reply, in a fixed order. Pure: the same reply has the same verdicts. */
export function judgeStyle(task: StyleTask, answer: string): Criterion[] {
  const words = tokens(answer);
  const check = (name: string, ok: boolean, why: string): Criterion => (ok ? { name, ok } : { name, ok, why });
  const missing = task.must.filter((w) => !words.includes(w));
  const counts = Map.groupBy(words, (w) => w);
  const most = Math.max(0, ...[...counts].filter(([w]) => !GLUE.includes(w)).map(([, all]) => all.length));
  const glue = words.filter((w) => GLUE.includes(w)).length;
  return [
    check(
      "length",
      words.length >= task.least && words.length <= task.most,
      `${words.length} words, ${task.least} to ${task.most} wanted`,
    ),
    check("mentions", !missing.length, `does not mention ${missing.join(", ")}`),
    check("topic", saysAny(words, [task.topic.replace(/^(the|an?) /, "")]), `is not about ${task.topic}`),
    check("avoids", !words.includes(task.avoid), `uses '${task.avoid}'`),
    check("no praise", !saysAny(words, PRAISE), "praises, or talks about itself"),
    check("one sentence", /^\p{Lu}[^.!?]*\.$/u.test(answer), "is not one sentence from a capital to a full stop"),
    // A bare list of the wanted words is no sentence; a third of ordinary ones is.
    check("prose", glue * 4 >= words.length && most <= 2, "is a list of words, not a sentence"),
    check("own words", !copies(task.request, words), "copies the request"),
  ];
}

/** Whether six words in a row are those of the request. */
function copies(request: string, words: readonly string[]): boolean {
  const asked = ` ${tokens(request).join(" ")} `;
  return words.some((_, i) => i + 6 <= words.length && asked.includes(` ${words.slice(i, i + 6).join(" ")} `));
}

function sentence(random: Random): Question {
  const topic = random.pick(TOPICS);
  const must = random.shuffle([...NOUNS]).slice(0, 2);
  const avoid = random.pick(FILLERS.filter((f) => !topic.includes(f)));
  const least = 8 + random.int(5);
  const most = Math.max(14, least + 3 + random.int(4));
  const limits = `${least} to ${most} words`;
  const task = { topic, must, least, most, avoid };
  const wordings = {
    train: [
      `Write one sentence about ${topic}, ${limits}, with the words ${must.join(" and ")}, but not the word ${avoid}.`,
      `One sentence of ${limits} on ${topic}, please. Use ${must.join(" and ")}. Avoid ${avoid}.`,
    ],
    heldout: [
      `Say something about ${topic} in a single sentence (${limits}); mention ${must.join(" and ")}, leave out ${avoid}.`,
    ],
  };
  const judged = (answer: string): Criterion[] =>
    judgeStyle({ ...task, request: [...wordings.train, ...wordings.heldout].join(" \n ") }, answer);
  return {
    key: `style ${topic} ${must} ${limits} ${avoid}`,
    wordings,
    solution: compose(task, random),
    criteria: judged,
    wrong: (answer) => judged(answer).find((c) => !c.ok)?.why,
  };
}

const article = (noun = ""): string => `${/^[aeiou]/.test(noun) ? "an" : "a"} ${noun}`;

/** A sentence that meets the rubric: "Near the sea there is a warm lamp and a small river in the …". */
function compose(task: Omit<StyleTask, "request">, random: Random): string {
  const [a, b] = task.must;
  const fillers = random.shuffle(FILLERS.filter((f) => f !== task.avoid));
  const tail: string[][] = [];
  const words = `near ${task.topic} there is ${article(a)} and ${article(b)}`.split(" ");
  while (words.length + tail.flat().length < task.least) {
    const adjective = fillers[tail.length] ?? "plain";
    tail.push(tail.length % 2 ? ["and", adjective] : ["in", "the", adjective, "light"]);
  }
  const text = [...words, ...tail.flat()].join(" ");
  return `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;
}

export const styleRubric: Quiz = {
  name: "style-rubric",
  version: 1,
  system: "Reply with one plain sentence.",
  kinds: { sentence },
};
