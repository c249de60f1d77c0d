/** The weights behind a model, for reinforcement learning: stop and go, sleep, other weights, proof of which they are. */
import { createHash } from "node:crypto";
import { SafeTensors, type Tensor, torch } from "@massif/torch";
import type { Engine } from "../../engine/index.ts";
import { checkpointTensors } from "../../model/index.ts";
import { ApiError } from "../errors.ts";

export type Memory = "weights" | "kv_cache";

/** SHA-256 (hex) of each tensor's bytes, little-endian, by its name in a checkpoint; and of all of them in order of names,
 *  as lines `name dtype [shape] sha256`. */
export interface Digest {
  checksum: string;
  tensors: Record<string, string>;
}

export interface Control {
  /** Counted up with every update. */
  readonly version: number;
  /** What a trainer called that version; otherwise its number. */
  nameOf(version: number): string;
  /** Calls the version of now by a name. */
  call(name: string): void;
  readonly paused: boolean;
  /** `keep` stops after the step under way; `retract` frees the cache of what is under way, too; `wait` lets it end first;
   *  `abort` ends it, and what waits. Later requests wait. */
  pause(mode: "keep" | "retract" | "wait" | "abort"): Promise<void>;
  resume(): void;
  /** Takes a checkpoint's folder, or the tensors of files under their names in a checkpoint, each in place of the one that
   *  is there. What is under way ends first, or is aborted; in a paused engine it goes on under the new weights. Returns the
   *  new version. */
  update(source: string | readonly SafeTensors[], underWay: "finish" | "abort"): Promise<number>;
  /** The tensors of a file. Throws where it is no safetensors file. */
  read(path: string): SafeTensors;
  /** Throws 400 for a tensor that the model does not have, or has in another shape. */
  check(file: SafeTensors): void;
  readonly asleep: readonly Memory[];
  /** Which device the weights are on. */
  readonly device: string;
  sleep(memory: ReadonlySet<Memory>, underWay: "finish" | "abort"): Promise<void>;
  wake(memory: ReadonlySet<Memory>): void;
  /** Nothing that was computed before is found again. */
  forgetPrefixes(): void;
  describe(): { name: string; dtype: string; shape: readonly number[] }[];
  digest(): Promise<Digest>;
}

/** Names of an engine's versions. Two models may be served by one engine. */
const names = new WeakMap<Engine, Map<number, string>>();

export class EngineControl implements Control {
  readonly #engine: Engine;
  readonly #names: Map<number, string>;

  constructor(engine: Engine) {
    this.#engine = engine;
    this.#names = names.get(engine) ?? new Map();
    names.set(engine, this.#names);
  }

  get version(): number {
    return this.#engine.version;
  }

  get paused(): boolean {
    return this.#engine.metrics().paused;
  }

  get asleep(): readonly Memory[] {
    return this.#engine.asleep;
  }

  get device(): string {
    return this.#engine.model.device;
  }

  nameOf(version: number): string {
    return this.#names.get(version) ?? String(version);
  }

  call(name: string): void {
    this.#names.set(this.version, name);
  }

  async pause(mode: "keep" | "retract" | "wait" | "abort"): Promise<void> {
    if (mode === "wait" || mode === "abort") return this.#engine.stop(mode === "wait" ? "finish" : "abort");
    this.#engine.pause();
    if (mode === "retract") this.#engine.retract();
  }

  resume(): void {
    this.#engine.resume();
  }

  update(source: string | readonly SafeTensors[], underWay: "finish" | "abort"): Promise<number> {
    const how = underWay === "finish" && this.paused ? "recompute" : underWay;
    if (typeof source === "string") return this.#engine.updateWeights(source, { underWay: how });
    for (const file of source) this.check(file);
    return this.#engine.updateWeights(
      () => {
        using _ = torch.scope();
        using __ = torch.noGrad();
        const own = this.#tensors();
        for (const file of source)
          for (const name of file.names) torch.tidy(() => void own.get(name)!.copy_(file.get(name)));
      },
      { underWay: how },
    );
  }

  read(path: string): SafeTensors {
    return new SafeTensors(path);
  }

  check(file: SafeTensors): void {
    if (this.asleep.includes("weights"))
      throw new ApiError(409, "the weights are asleep: wake them first", { code: "asleep" });
    using _ = torch.scope();
    const own = this.#tensors();
    for (const name of file.names) {
      const mine = own.get(name);
      const { shape } = file.entry(name);
      if (mine && `${mine.shape}` === `${shape}`) continue;
      const found = mine ? `${name} is [${shape}], and [${mine.shape}] here` : `this model has no tensor ${name}`;
      throw new ApiError(400, found.slice(0, 500), { code: "invalid_weights" });
    }
  }

  sleep(memory: ReadonlySet<Memory>, underWay: "finish" | "abort"): Promise<void> {
    return this.#engine.sleep({ cache: memory.has("kv_cache"), weights: memory.has("weights") }, underWay);
  }

  wake(memory: ReadonlySet<Memory>): void {
    this.#engine.wake({ cache: memory.has("kv_cache"), weights: memory.has("weights") });
  }

  forgetPrefixes(): void {
    this.#engine.forgetPrefixes();
  }

  describe(): { name: string; dtype: string; shape: readonly number[] }[] {
    using _ = torch.scope();
    return [...this.#tensors()].map(([name, { dtype, shape }]) => ({ name, dtype, shape }));
  }

  /** Throws 409 where the weights are updated meanwhile. */
  async digest(): Promise<Digest> {
    const { version } = this;
    const described = this.describe().sort((a, b) => (a.name < b.name ? -1 : 1));
    const tensors: Record<string, string> = {};
    const all = createHash("sha256");
    for (const { name, dtype, shape } of described) {
      // Others have their turn between two tensors.
      await new Promise(setImmediate);
      if (this.version !== version || this.asleep.includes("weights"))
        throw new ApiError(409, "the weights were changed meanwhile", { code: "updating" });
      tensors[name] = torch.tidy(() => sha256(this.#tensors().get(name)!));
      all.update(`${name} ${dtype} [${shape}] ${tensors[name]}\n`);
    }
    return { checksum: all.digest("hex"), tensors };
  }

  /** Views of the weights by their names in a checkpoint. */
  #tensors(): Map<string, Tensor> {
    const { model } = this.#engine;
    if (this.asleep.includes("weights")) throw new ApiError(409, "the weights are asleep", { code: "asleep" });
    if ([...model.parameters.values()].some(({ live }) => !live))
      throw new ApiError(400, "weights in INT4 are read once: open another engine", { code: "invalid_weights" });
    return new Map(checkpointTensors(model));
  }
}

const sha256 = (tensor: Tensor): string =>
  createHash("sha256")
    .update(tensor.to("cpu").contiguous().flatten().view("uint8").toTypedArray() as Uint8Array)
    .digest("hex");
