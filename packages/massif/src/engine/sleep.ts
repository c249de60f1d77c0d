/** Memory given back while an engine has nothing to do: its cache, and its weights, which wait in a file. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SafeTensors, saveSafetensors, type Tensor, torch } from "@massif/torch";
import type { Model } from "../model/index.ts";

export class SleepingWeights implements Disposable {
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
