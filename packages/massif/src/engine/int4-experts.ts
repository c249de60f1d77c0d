/**
 * Routed experts that stay in INT4 (groups of 32, specification §2.4) while they compute: packed for massif::decode_step,
 * and for the path through the blocks by ATen's weight-only product for the CPU, activations in bf16. A quarter of bf16's
 * memory, and fastest where an expert has few rows, as in decoding.
 *
 * Shapes: N tokens, D width, k experts a token, I hidden width, M an expert's rows.
 */
import { SafeTensors, swiglu, type Tensor, torch } from "@massif/torch";
import { MassifError } from "../common/index.ts";
import {
  type Block,
  hasInt4,
  INT4_GROUP,
  type Int4,
  type Model,
  type PackedExperts,
  packedExperts,
  quantizeInt4,
  readInt4,
} from "../model/index.ts";

/** A matrix [out, in] as ATen's product wants it. */
interface Packed {
  nibbles: Tensor;
  /** bf16 [groups, out, 2]. */
  scaleAndZero: Tensor;
}

interface Expert {
  gateUp: Packed;
  down: Packed;
}

export class Int4Experts implements Disposable {
  readonly #layers = new Map<number, Expert[]>();

  /** Packs every expert of a model: as its checkpoint has them where it has INT4, else rounded. Throws `engine.int4`. */
  constructor(model: Model, folder?: string) {
    const stored = storedExperts(model, folder);
    const { nRoutedExperts } = model.config;
    for (const block of model.blocks) {
      if (!block.moe) continue;
      const prefix = `model.layers.${block.index}.mlp.experts`;
      this.#layers.set(
        block.index,
        Array.from({ length: nRoutedExperts }, (_, e) =>
          torch.tidy(() =>
            keep({
              gateUp: pack([stored(`${prefix}.gate_up_proj`, 2 * e), stored(`${prefix}.gate_up_proj`, 2 * e + 1)]),
              down: pack([stored(`${prefix}.down_proj`, e)]),
            }),
          ),
        ),
      );
    }
  }

  /** The experts of a block on x [N, D]. */
  readonly experts = (block: Block, x_ND: Tensor, idx_Nk: Tensor, w_Nk: Tensor): Tensor => {
    const layer = this.#layers.get(block.index)!;
    const [N, k] = idx_Nk.shape as [number, number];
    const rows = new Map<number, number[]>();
    for (const [slot, e] of idx_Nk.toArray().entries()) {
      if (!rows.has(e)) rows.set(e, []);
      rows.get(e)!.push(slot);
    }
    const slots = [...rows.values()].flat();
    const token = torch.tensor(Int32Array.from(slots, (slot) => Math.floor(slot / k)));
    const w_S1 = w_Nk
      .flatten()
      .index_select(0, torch.tensor(Int32Array.from(slots)))
      .unsqueeze(1);
    const x_SD = x_ND.index_select(0, token);
    const parts: Tensor[] = [];
    let from = 0;
    for (const [e, { length: M }] of rows) {
      const { gateUp, down } = layer[e]!;
      parts.push(product(swiglu(product(x_SD.narrow(0, from, M), gateUp)), down));
      from += M;
    }
    const y_SD = torch.cat(parts).to("float32").mul(w_S1);
    return torch.zeros([N, x_ND.shape[1]!]).index_add(0, token, y_SD).to(x_ND.dtype);
  };

  [Symbol.dispose](): void {
    for (const { gateUp, down } of [...this.#layers.values()].flat())
      for (const tensor of [gateUp.nibbles, gateUp.scaleAndZero, down.nibbles, down.scaleAndZero]) tensor.dispose();
  }
}

/** The pieces of a model's routed parameters in INT4: as its checkpoint has them, else rounded. Throws `engine.int4`. */
function storedExperts(model: Model, folder?: string): (name: string, piece: number) => Int4 {
  const file = folder === undefined ? undefined : new SafeTensors(folder);
  const { hiddenSize, moeIntermediateSize: I } = model.config;
  if (hiddenSize % INT4_GROUP || I % INT4_GROUP)
    throw new MassifError("engine.int4", {
      found: `experts of ${hiddenSize} × ${I}`,
      expected: `widths that are multiples of ${INT4_GROUP}`,
    });
  const specs = new Map(model.specs.map((spec) => [spec.name, spec]));
  return (name, i) => {
    const { pieces } = specs.get(name)!;
    if (file && hasInt4(file, pieces.name(i))) return readInt4(file, pieces.name(i));
    return quantizeInt4(
      model
        .parameter(name)
        .view([pieces.count, ...pieces.shape])
        .select(0, i),
    );
  };
}

/** Routed parameters as massif::decode_step takes them. */
export function int4Experts(model: Model, folder: string): (name: string) => PackedExperts {
  const stored = storedExperts(model, folder);
  return (name) => {
    const { count } = model.specs.find((spec) => spec.name === name)!.pieces;
    const parts = Array.from({ length: count }, (_, i) => stored(name, i));
    return packedExperts(parts, model.parameter(name).shape);
  };
}

const product = (x_MI: Tensor, { nibbles, scaleAndZero }: Packed): Tensor =>
  torch._weight_int4pack_mm_for_cpu(x_MI, nibbles, INT4_GROUP, scaleAndZero);

/** Matrices with the same input, one below the other. */
function pack(parts: readonly Int4[]): Packed {
  const values_OI = torch.cat(parts.map((part) => part.values_OI));
  const scale_GO = torch
    .cat(parts.map((part) => part.scale_OG))
    .t()
    .to("bfloat16");
  return {
    nibbles: torch._convert_weight_to_int4pack_for_cpu(values_OI.add(8), 1),
    scaleAndZero: torch.stack([scale_GO, torch.zeros_like(scale_GO)], -1),
  };
}

function keep(expert: Expert): Expert {
  for (const { nibbles, scaleAndZero } of [expert.gateUp, expert.down]) torch.keep([nibbles, scaleAndZero]);
  return expert;
}
