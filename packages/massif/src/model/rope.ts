/** Rotary position with YaRN (arXiv 2309.00071) as DeepSeek-V3 and K2 use it; specification §1.9. */
import { type Device, type DType, type Tensor, torch } from "@massif/torch";
import { type ModelConfig, qkHeadDim, type YarnConfig } from "./config.ts";

/** Inverse frequencies of the pairs, in radians a position; length qkRopeHeadDim / 2. */
export function inverseFrequencies({ qkRopeHeadDim: d, ropeTheta: base, ropeScaling: yarn }: ModelConfig): number[] {
  const plain = Array.from({ length: d / 2 }, (_, i) => base ** ((-2 * i) / d));
  if (!yarn) return plain;
  const dimOf = (rotations: number) =>
    (d * Math.log(yarn.originalMaxPositionEmbeddings / (2 * Math.PI * rotations))) / (2 * Math.log(base));
  const low = Math.max(Math.floor(dimOf(yarn.betaFast)), 0);
  const high = Math.min(Math.ceil(dimOf(yarn.betaSlow)), d - 1);
  const width = low === high ? 0.001 : high - low;
  return plain.map((f, i) => {
    const ramp = Math.min(1, Math.max(0, (i - low) / width));
    return (f / yarn.factor) * ramp + f * (1 - ramp);
  });
}

const mscale = (factor: number, k: number) => (factor > 1 ? 0.1 * k * Math.log(factor) + 1 : 1);

/** What cos and sin are multiplied by: 1 for K2. Without both mscales it is the factor's own, as in transformers. */
function attentionFactor(yarn: YarnConfig | null): number {
  if (!yarn) return 1;
  const { factor, mscale: k, mscaleAllDim } = yarn;
  return k && mscaleAllDim ? mscale(factor, k) / mscale(factor, mscaleAllDim) : mscale(factor, 1);
}

/** The softmax scale: qkHeadDim^(−1/2), times YaRN's mscale² (at every length, as transformers does). */
export function softmaxScale(config: ModelConfig): number {
  const m = config.ropeScaling ? mscale(config.ropeScaling.factor, config.ropeScaling.mscaleAllDim) : 1;
  return (m * m) / Math.sqrt(qkHeadDim(config));
}

/** cos and sin of the angles at positions [start, start + length): [T, qkRopeHeadDim / 2] each. */
export class RotaryTable {
  readonly #config: ModelConfig;
  readonly #dtype: DType;
  readonly #device: Device;
  #cos: Tensor | undefined;
  #sin: Tensor | undefined;
  #length = 0;

  constructor(config: ModelConfig, dtype: DType = "float32", device: Device = "cpu") {
    this.#config = config;
    this.#dtype = dtype === "float64" ? dtype : "float32";
    this.#device = device;
  }

  /** The rows of a range of positions, as views. */
  rows(start: number, length: number): [cos_TR: Tensor, sin_TR: Tensor] {
    this.#grow(start + length);
    return [this.#cos!.narrow(0, start, length), this.#sin!.narrow(0, start, length)];
  }

  /** The rows of single positions [N]. */
  at(positions_N: Tensor, highest: number): [cos_NR: Tensor, sin_NR: Tensor] {
    this.#grow(highest + 1);
    return [this.#cos!.index_select(0, positions_N), this.#sin!.index_select(0, positions_N)];
  }

  /** Frees the table; it grows again when it is asked for. */
  dispose(): void {
    this.#cos?.dispose();
    this.#sin?.dispose();
    this.#cos = this.#sin = undefined;
    this.#length = 0;
  }

  #grow(length: number): void {
    if (length <= this.#length) return;
    const rows = Math.max(length, 2 * this.#length, 256);
    this.dispose();
    this.#length = rows;
    const round = this.#dtype === "float64" ? (x: number) => x : Math.fround; // the reference rounds angles to its dtype
    const f = inverseFrequencies(this.#config).map(round);
    const factor = attentionFactor(this.#config.ropeScaling);
    const table = (of: (x: number) => number) => {
      const flat = new Float64Array(this.#length * f.length);
      for (let t = 0; t < this.#length; t++)
        for (let j = 0; j < f.length; j++) flat[t * f.length + j] = factor * of(round(t * f[j]!));
      return torch.keep(
        torch.tensor(flat, { shape: [this.#length, f.length], dtype: this.#dtype, device: this.#device }),
      );
    };
    this.#cos = table(Math.cos);
    this.#sin = table(Math.sin);
  }
}
