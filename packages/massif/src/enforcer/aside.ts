/** Compiling beside the event loop: a stranger's pattern may take a second, and every other answer would wait for it.
 *
 *  One thread reads what is heavy, one turn at a time; what takes longer than its patience is refused, and its thread
 *  ended. What is light is read here: asking a thread would take longer. */
import { once } from "node:events";
import { Worker } from "node:worker_threads";
import { MassifError } from "../common/index.ts";
import type { Read } from "./aside.worker.ts";
import type { Grammar } from "./grammar.ts";
import type { Vocabulary } from "./trie.ts";
import { buildTurn, compileTurn, type TurnOptions } from "./turn.ts";

/** Milliseconds for one turn; bytes of options that are light if nothing in them is costly. */
const PATIENCE = 5000;
const LIGHT = 16_384;
/** Words whose automata can be large. */
const costly = /"(pattern|patternProperties|propertyNames|regex|grammar|multipleOf)":/;

let worker: Promise<Worker> | undefined;
let before: Promise<unknown> = Promise.resolve();

/** As `compileTurn`, without holding up the event loop. Throws `schema.slow` where it takes more than its patience. */
export async function compileAside(
  vocabulary: Vocabulary,
  options: TurnOptions,
  { milliseconds = PATIENCE }: { milliseconds?: number } = {},
): Promise<Grammar> {
  const text = JSON.stringify(options);
  if (text.length <= LIGHT && !costly.test(text)) return compileTurn(vocabulary, options);
  const turn = before.then(() => readAside(JSON.parse(text) as TurnOptions, milliseconds));
  before = turn.catch(() => undefined);
  const read = await turn;
  if ("code" in read) throw new MassifError(read.code, read.trouble);
  return buildTurn(vocabulary, options, read.parts);
}

async function readAside(options: TurnOptions, milliseconds: number): Promise<Read> {
  // Its own start is not the turn's time.
  const asked = await (worker ??= start());
  asked.ref();
  return new Promise<Read>((resolve, reject) => {
    const done = () => {
      clearTimeout(timer);
      asked.off("error", lost).off("message", heard).unref();
    };
    const heard = (read: Read) => {
      done();
      resolve(read);
    };
    const lost = (error: Error) => {
      done();
      worker = undefined;
      void asked.terminate();
      reject(error);
    };
    const timer = setTimeout(() => {
      const found = `a schema, pattern or grammar that takes more than ${milliseconds} ms to compile`;
      lost(new MassifError("schema.slow", { found, fix: "make its patterns and repeats smaller" }));
    }, milliseconds);
    asked.on("error", lost).on("message", heard);
    asked.postMessage(options);
  });
}

async function start(): Promise<Worker> {
  const started = new Worker(new URL("./aside.worker.ts", import.meta.url), { execArgv: [] });
  await once(started, "message");
  return started;
}
