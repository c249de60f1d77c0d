/**
 * Which task comes next. Tasks of a world are of types; a type's difficulty is its pass rate, remembered with decay, and a
 * share of the tasks is drawn by 1 − success (K1.5, arXiv 2501.12599 §2.3.4), the rest as the world draws them.
 */
import { Random } from "../common/index.ts";

/** A place to draw tasks from: what type the task of a seed is. */
export interface TaskSource {
  name: string;
  weight: number;
  typeOf(seed: number): string;
}

export interface DrawnTask {
  source: number;
  seed: number;
  type: string;
}

/** JSON: with it, the same tasks come. */
export interface CurriculumState {
  random: Random["state"];
  rates: [type: string, rate: number][];
}

/** Seeds tried for a task of a wanted type. */
const TRIES = 64;

export class Curriculum {
  readonly #sources: readonly TaskSource[];
  readonly #priority: number;
  readonly #memory: number;
  readonly #random: Random;
  /** Success of each type seen, "world/kind". */
  readonly #rates = new Map<string, number>();

  constructor(
    sources: readonly TaskSource[],
    { seed, priority, memory }: { seed: number; priority: number; memory: number },
  ) {
    this.#sources = sources;
    this.#priority = priority;
    this.#memory = memory;
    this.#random = Random.of(seed, "curriculum");
  }

  next(): DrawnTask {
    const wanted = this.#random.float() < this.#priority ? this.#hard() : undefined;
    let task = this.#any(wanted);
    for (let i = 1; wanted && i < TRIES && this.#key(task) !== wanted; i++) task = this.#any(wanted);
    return task;
  }

  #key({ source, type }: Pick<DrawnTask, "source" | "type">): string {
    return `${this.#sources[source]!.name}/${type}`;
  }

  /** A type, by 1 − success. Undefined while none is known, or all are solved. */
  #hard(): string | undefined {
    return draw(this.#random, [...this.#rates], ([, rate]) => 1 - rate)?.[0];
  }

  #any(type: string | undefined): DrawnTask {
    const all = [...this.#sources.entries()];
    const fitting = type === undefined ? all : all.filter(([, { name }]) => type.startsWith(`${name}/`));
    const [source, { typeOf }] = draw(this.#random, fitting, ([, { weight }]) => weight)!;
    // 31 bits: a seed that a JSON row and every reader keeps exactly.
    const seed = this.#random.uint32() >>> 1;
    return { source, seed, type: typeOf(seed) };
  }

  /** What a group came to: `success` is its share of right answers. */
  saw(task: DrawnTask, success: number): void {
    const key = this.#key(task);
    const before = this.#rates.get(key);
    this.#rates.set(key, before === undefined ? success : this.#memory * before + (1 - this.#memory) * success);
  }

  /** Success of each type, as remembered. */
  get rates(): Record<string, number> {
    return Object.fromEntries(this.#rates);
  }

  get state(): CurriculumState {
    return { random: this.#random.state, rates: [...this.#rates] };
  }

  set state({ random, rates }: CurriculumState) {
    this.#random.state = random;
    this.#rates.clear();
    for (const [type, rate] of rates) this.#rates.set(type, rate);
  }
}

/** One of the items, by weight; undefined where all weights are 0. */
function draw<T>(random: Random, items: readonly T[], weightOf: (item: T) => number): T | undefined {
  const total = items.reduce((sum, item) => sum + weightOf(item), 0);
  let at = random.float() * total;
  for (const item of items) {
    at -= weightOf(item);
    if (at < 0) return item;
  }
  return undefined;
}
