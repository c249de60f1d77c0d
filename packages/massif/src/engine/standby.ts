/** Memory given back while an engine has nothing to do: its cache, and its weights, which wait in a file of the system's
 *  folder for such. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SafeTensors, saveSafetensors, type Tensor, torch } from "@massif/torch";
import { MassifError } from "../common/index.ts";
import type { Model } from "../model/index.ts";
import type { PagedCache } from "./cache.ts";
import type { Runtime } from "./runtime.ts";

/** What sleeps, or is to. */
export interface Parts {
  cache?: boolean;
  weights?: boolean;
}

export class Standby implements Disposable {
  readonly #runtime: Runtime;
  readonly #cache: PagedCache;
  #cacheSleeps = false;
  #weights: SleepingWeights | undefined;

  constructor(runtime: Runtime, cache: PagedCache) {
    this.#runtime = runtime;
    this.#cache = cache;
  }

  get asleep(): readonly ("kv_cache" | "weights")[] {
    return [...(this.#cacheSleeps ? ["kv_cache" as const] : []), ...(this.#weights ? ["weights" as const] : [])];
  }

  /** Throws `engine.asleep`. */
  checkAwake(): void {
    if (!this.asleep.length) return;
    const found = `a request while ${this.asleep.join(" and ")} sleep`;
    throw new MassifError("engine.asleep", { found, fix: "wake the engine" });
  }

  /** Throws `engine.asleep`. */
  checkWeights(): void {
    if (this.#weights)
      throw new MassifError("engine.asleep", { found: "an update of weights that are asleep", fix: "wake them first" });
  }

  /** Nothing of the cache may be found from here on. */
  sleep({ cache = true, weights = true }: Parts): void {
    if (cache && !this.#cacheSleeps) {
      this.#cache.release();
      this.#cacheSleeps = true;
    }
    if (weights && !this.#weights) {
      this.#weights = new SleepingWeights(this.#runtime.model);
      this.#runtime.steps.release();
    }
  }

  /** Weights are to the bit as they were, the cache is empty. */
  wake({ cache = true, weights = true }: Parts): void {
    if (cache && this.#cacheSleeps) {
      this.#cache.restore();
      this.#cacheSleeps = false;
    }
    if (weights && this.#weights) {
      this.#weights.wake();
      this.#weights = undefined;
      this.#runtime.steps.refresh();
    }
  }

  [Symbol.dispose](): void {
    this.#weights?.[Symbol.dispose]();
  }
}

class SleepingWeights implements Disposable {
  readonly #folder = mkdtempSync(join(tmpdir(), "massif-weights-"));
  readonly #tensors: ReadonlyMap<string, Tensor>;

  /** Writes the parameters to a file, and empties them: the tensors stay, their memory goes. */
  constructor({ parameters }: Model) {
    this.#tensors = new Map([...parameters].filter(([, tensor]) => tensor.live));
    saveSafetensors(this.#file, this.#tensors);
    using _ = torch.noGrad();
    for (const tensor of this.#tensors.values())
      torch.tidy(() => void tensor.set_(torch.empty([0], { dtype: tensor.dtype, device: tensor.device })));
  }

  get #file(): string {
    return join(this.#folder, "weights.safetensors");
  }

  /** Puts back every bit. */
  wake(): void {
    const file = new SafeTensors(this.#file);
    using _ = torch.noGrad();
    for (const [name, tensor] of this.#tensors)
      torch.tidy(() => void tensor.set_(file.get(name).to({ device: tensor.device, copy: true })));
    this[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
