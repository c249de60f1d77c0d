/**
 * A round: what the scheduler has planned is computed in one step, and every choice whose last token was among it goes on
 * by one; where guesses were computed too, by as many more as were right.
 */
import { type Tensor, torch } from "@massif/torch";
import type { Stretch } from "../model/index.ts";
import type { Tokenizer } from "../tokenizer/index.ts";
import type { PagedCache } from "./cache.ts";
import type { Choice } from "./choice.ts";
import type { Meter } from "./metrics.ts";
import type { Runtime } from "./runtime.ts";
import { attempt, pickTokens, tellPrompt } from "./sampler.ts";
import type { Plan, Scheduler, Slice } from "./scheduler.ts";
import type { Work, Workload } from "./workload.ts";

export interface RoundsOptions {
  runtime: Runtime;
  cache: PagedCache;
  scheduler: Scheduler;
  workload: Workload;
  meter: Meter;
  tokenizer: Tokenizer | undefined;
  now: () => number;
}

/** A place where a choice goes on: from a row of logits, and from guesses as long as they are right. */
interface Turn {
  work: Work;
  choice: Choice;
  row: number;
  /** The token that the row follows, among all of the step. */
  token: number;
  draft: readonly number[];
  /** Guesses that were right so far. */
  right: number;
}

export class Rounds implements Disposable {
  readonly #options: RoundsOptions;
  /** Ids that the tokenizer has no token for: the model's vocabulary may be padded. */
  readonly #never: Tensor | undefined;

  constructor(options: RoundsOptions) {
    const { runtime, tokenizer } = options;
    const { config, device } = runtime.model;
    this.#options = options;
    const never = tokenizer ? idsWithoutToken(tokenizer, config.vocabSize) : [];
    if (never.length) this.#never = torch.keep(torch.tensor(BigInt64Array.from(never, BigInt), { device }));
  }

  /** Carries out a plan under that version of the weights. What goes wrong ends the requests in it; the others go on. */
  run(plan: Plan, version: number): void {
    const { workload } = this.#options;
    try {
      this.#run(plan, version);
    } catch (error) {
      for (const { job } of plan.slices) {
        const work = workload.of(job);
        if (work) workload.fail(work.generation, error);
      }
    }
  }

  #run(plan: Plan, version: number): void {
    const { runtime, cache, scheduler, workload, meter, now } = this.#options;
    const { copies, slices } = plan;
    cache.copy(copies);
    const works = slices.map(({ job }) => workload.of(job)!);
    const began = now();
    for (const { generation, job } of works) generation.began(began, job, cache.blockSize);
    const stretches = slices.map((slice, i) => stretchOf(slice, works[i]!));
    using _ = torch.scope();
    cache.touch(stretches);
    const [wanted, experts] = runtime.steps.step(stretches, cache.all, cache.blockSize);
    const logits = wanted.to("float32");
    scheduler.commit(plan);
    meter.counts.steps++;
    if (!logits.shape[0]) return;
    const expertsOf = works.some(({ request }) => request.experts) ? expertsByRow(experts) : undefined;
    const turns = turnsOf(slices, works, logits);
    for (const { work } of turns) if (work.request.maxTokens === 0) workload.goOn(work, [], now());
    const alive = this.#take(turns, logits, version, expertsOf);
    for (const { work, draft } of turns) if (draft.length && !work.generation.ended) this.#accept(work, draft);
    for (const [work, choices] of alive) if (!work.generation.ended) workload.goOn(work, choices, now());
  }

  /** Draws, and draws again where a guess was right. Returns the choices that go on after that, and their last tokens. */
  #take(
    turns: readonly Turn[],
    logits: Tensor,
    version: number,
    expertsOf: ((row: number) => number[][]) | undefined,
  ): Map<Work, { choice: Choice; id: number }[]> {
    const { workload, meter, now } = this.#options;
    const alive = new Map<Work, { choice: Choice; id: number }[]>();
    let left = turns.filter(({ choice }) => choice.request.maxTokens > 0);
    while (left.length) {
      const tokens = pickTokens(logits, left, this.#never);
      meter.generated(left.length, now());
      const next: Turn[] = [];
      for (const [i, turn] of left.entries()) {
        const { work, choice, draft, right } = turn;
        const token = tokens[i]!;
        if (!alive.has(work)) alive.set(work, []);
        if (work.generation.ended) continue;
        const said = token instanceof Error ? token : attempt(() => choice.say(token.id));
        if (token instanceof Error || said instanceof Error) {
          workload.fail(work.generation, said);
          continue;
        }
        const { text, finish } = said;
        const through = work.request.experts && expertsOf && { experts: expertsOf(turn.token) };
        work.generation.push(
          { choice: choice.index, text, ...token, ...through, version, ...(finish && { finish }) },
          now(),
        );
        if (finish) continue;
        if (draft[right] === token.id) {
          work.job.seq.tokens.push(token.id);
          next.push({ ...turn, row: turn.row + 1, token: turn.token + 1, right: right + 1 });
        } else alive.get(work)!.push({ choice, id: token.id });
      }
      left = next;
    }
    return alive;
  }

  /** The guesses that were right are computed. */
  #accept({ job }: Work, draft: readonly number[]): void {
    const { meter, scheduler } = this.#options;
    meter.counts.drafts++;
    meter.counts.draftTokens += draft.length;
    meter.counts.acceptedTokens += scheduler.accept(job);
  }

  [Symbol.dispose](): void {
    this.#never?.dispose();
  }
}

/** Whether the slice is a part of a prompt that is told. */
const isTold = ({ from }: Slice, { generation }: Work): boolean =>
  generation.promptLogprobs !== undefined && from < generation.promptTokens;

/** The rows of a slice, guesses too. Logits are wanted of all of a prompt that is told, and of guesses and the token before
 *  them; else of the last token once nothing is left to compute. */
function stretchOf(slice: Slice, work: Work): Stretch {
  const { from, to, draft } = slice;
  const { seq } = slice.job;
  const tokens = draft.length ? [...seq.tokens.slice(from), ...draft] : seq.tokens.slice(from, to);
  const all = draft.length > 0 || isTold(slice, work);
  return { tokens, start: from, blocks: seq.blocks, wanted: all ? to - from : to === seq.tokens.length ? 1 : 0 };
}

/** The choices that go on, each from the row of logits of its slice's last known token. Tells prompts on the way. */
function turnsOf(slices: readonly Slice[], works: readonly Work[], logits: Tensor): Turn[] {
  const turns: Turn[] = [];
  let row = 0;
  let end = 0;
  for (const [i, slice] of slices.entries()) {
    const { job, from, to, draft } = slice;
    const work = works[i]!;
    end += to - from;
    const told = isTold(slice, work);
    if (told) tellPrompt(work.generation, logits.narrow(0, row, to - from), job.seq.tokens, from, work.request);
    const known = to - draft.length;
    if (told) row += known - from - 1;
    if (known === job.seq.tokens.length) {
      const token = end - 1 - draft.length;
      for (const choice of work.choices) turns.push({ work, choice, row, token, draft, right: 0 });
    }
    if (told || known === job.seq.tokens.length) row += 1 + draft.length;
  }
  return turns;
}

/** Reads the experts of a row: of each layer the k chosen. */
function expertsByRow(chosen_LNk: Tensor): (row: number) => number[][] {
  const [L, N, k] = chosen_LNk.shape as [number, number, number];
  const flat = chosen_LNk.to("int32").toTypedArray() as Int32Array;
  return (row) =>
    Array.from({ length: L }, (_, l) => Array.from(flat.subarray((l * N + row) * k, (l * N + row + 1) * k)));
}

function idsWithoutToken(tokenizer: Tokenizer, vocabSize: number): number[] {
  const special = new Set(tokenizer.special.values());
  const { vocabulary } = tokenizer;
  return Array.from({ length: vocabSize }, (_, id) => id).filter(
    (id) => !special.has(id) && (id >= vocabulary.size || !vocabulary.bytes(id).length),
  );
}
