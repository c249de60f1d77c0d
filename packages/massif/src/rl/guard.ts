/**
 * Watches for a policy that locks onto a shortcut: always refuse, never refuse. Then groups of the other side all fail,
 * carry no signal, and nothing pulls it back (study: notes/small-rl.md, point 4). So the sides are watched apart, never
 * their mean.
 */
import type { Kind } from "../agent/index.ts";

export interface CollapseConfig {
  fall: number;
  patience: number;
}

/** JSON; part of the checkpoint. */
export interface CollapseState {
  /** Success of each side, smoothed; its best; steps in a row far below it. */
  sides: { side: Kind; rate: number; best: number; falling: number }[];
}

/** How much of its past a side's rate keeps: a step has few tasks of the rarer side. */
const MEMORY = 0.7;

export class CollapseGuard {
  readonly #config: CollapseConfig;
  #sides: CollapseState["sides"] = [];

  constructor(config: CollapseConfig) {
    this.#config = config;
  }

  /** Takes a step's success of each side (kind of task) that had tasks. Says what has locked in, or nothing. */
  judge(success: Partial<Record<Kind, number>>): string | undefined {
    for (const side of ["act", "refuse", "answer"] as const) {
      const now = success[side];
      if (now === undefined) continue;
      let seen = this.#sides.find((s) => s.side === side);
      if (!seen) this.#sides.push((seen = { side, rate: now, best: now, falling: 0 }));
      seen.rate = MEMORY * seen.rate + (1 - MEMORY) * now;
      seen.best = Math.max(seen.best, seen.rate);
      seen.falling = seen.best - seen.rate > this.#config.fall ? seen.falling + 1 : 0;
    }
    const locked = this.#sides.find(({ falling }) => falling >= this.#config.patience);
    return (
      locked &&
      `success of tasks to ${locked.side} fell from ${locked.best.toFixed(2)} to ${locked.rate.toFixed(2)} and stayed`
    );
  }

  /** Whether no side is far below its best: only then is a checkpoint one to go back to. */
  get calm(): boolean {
    return this.#sides.every(({ falling }) => falling === 0);
  }

  get state(): CollapseState {
    return structuredClone({ sides: this.#sides });
  }

  set state({ sides }: CollapseState) {
    this.#sides = structuredClone(sides);
  }
}
